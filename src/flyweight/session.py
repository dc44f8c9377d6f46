"""Where and how one command works: the runs root, the data folder, the device, who watches."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from flyweight.config import schema
from flyweight.core import usage
from flyweight.core.artifact import Store
from flyweight.core.budget import Meter
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import utf8_name
from flyweight.core.runtime import Runtime
from flyweight.core.stage import Context
from flyweight.data.sources.local import data_folder
from flyweight.hub.checkpoint import trust


@dataclass(frozen=True)
class Session:
    """Where and how to work: shared by all calls of one command."""

    runs: Path | str | None = None
    data_dir: Path | str | None = None
    device: str | None = None
    threads: int | None = None
    seed: int = 0
    watch: Watcher = ignore
    command: str = ""
    trust_remote_code: bool = False

    @property
    def store(self) -> Store:
        """The runs root; whoever asks for it is about to read models, with this session's trust in them.

        Raises RequestError where its name is not UTF-8 text.
        """
        trust(self.trust_remote_code)
        return Store(utf8_name(Path(self.runs or os.environ.get("FLYWEIGHT_RUNS") or "runs"), "the runs root"))

    @property
    def data_folder(self) -> Path | None:
        """The folder of local copies of corpora; raise RequestError where it is named and not there."""
        return data_folder(self.data_dir)

    def runtime(self, seed: int | None = None) -> Runtime:
        """Return the device, threads and seed, and set this process's thread count."""
        seed = self.seed if seed is None else seed
        runtime = Runtime.detect(self.device, self.threads, seed, self.store.root, self.watch)
        runtime.apply()
        return runtime

    def context(self, budget: schema.Budget | None = None, seed: int | None = None) -> Context:
        """Return what stages need; raise RequestError where the runs root cannot be written."""
        self.store.prepare()
        return Context(
            self.store,
            self.runtime(seed),
            Meter(budget or schema.Budget()),
            self.watch,
            self.data_folder,
            self.command,
        )


DEFAULT = Session()

Words = ParamSpec("Words")
Answer = TypeVar("Answer")


def working(function: Callable[Words, Answer]) -> Callable[Words, Answer]:
    """Let a function that takes a `session` hold its runs root in use, so that `gc` of another process waits its turn."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def held(*arguments: Words.args, **options: Words.kwargs) -> Answer:
        session: Session = signature.bind(*arguments, **options).arguments.get("session", DEFAULT)
        with usage.working(session.store, session.command, session.watch):
            return function(*arguments, **options)

    return held
