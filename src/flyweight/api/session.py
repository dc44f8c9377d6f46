"""Where and how one command works: the runs root, the data folder, the device, who watches."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from flyweight.api.signatures import readable_signature
from flyweight.checkpoints.read import trusting
from flyweight.config import schema
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import utf8_name
from flyweight.core.runtime import Runtime
from flyweight.data.sources.local import data_folder
from flyweight.errors import RequestError
from flyweight.store import locks
from flyweight.store.artifact import Store
from flyweight.store.budget import Meter
from flyweight.store.stage import Context


def progress_lines(kind: str, fields: dict[str, Any]) -> None:
    """Mark a session that has no watcher: functions then show their progress.

    The function itself shows nothing.
    """


@dataclass(frozen=True, repr=False)
class Session:
    """Where and how to work: `fw.Session(runs="runs", threads=2, quiet=True)`.

    Many calls can share a session. `runs` is the runs root (default FLYWEIGHT_RUNS, else ./runs).
    `data_dir` is the folder of local copies of corpora (default FLYWEIGHT_DATA). `device` is cpu,
    cuda or mps (default: the best of this machine). `threads` are those of a CPU (default: all
    cores), `seed` is that of random weights and samples. Progress goes to standard error, as on the
    command line, unless `quiet`. A `watch` function gets the events of the progress instead.
    """

    runs: Path | str | None = None
    data_dir: Path | str | None = None
    device: str | None = None
    threads: int | None = None
    seed: int = 0
    watch: Watcher = progress_lines
    command: str = ""
    trust_remote_code: bool = False
    quiet: bool = False

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name != "watch" and getattr(self, field.name) != field.default
        ]
        return f"Session({', '.join(shown)})"

    @contextmanager
    def watched(self, quiet: bool = False) -> Iterator[Session]:
        """Yield this session with a progress display, unless it has a watcher of its own.

        A `quiet` display shows only what takes long.
        """
        if self.watch is not progress_lines:
            yield self
        elif self.quiet:
            yield replace(self, watch=ignore)
        else:
            from flyweight.api.progress import Display
            from flyweight.core.console import Terminal

            with Display(Terminal(stderr=True, force_jupyter=False), quiet) as display:
                yield replace(self, watch=display)

    @property
    def store(self) -> Store:
        """The runs root. Raises RequestError where its name is not UTF-8 text."""
        root = Path(self.runs or os.environ.get("FLYWEIGHT_RUNS") or "runs")
        return Store(utf8_name(root, "the runs root"))

    @property
    def data_folder(self) -> Path | None:
        """The folder of local copies of corpora, or None.

        Raises RequestError where it is named and does not exist.
        """
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
        runtime = self.runtime(seed)
        return Context(
            store=self.store,
            runtime=runtime,
            meter=Meter(budget or schema.Budget(), runtime.device),
            watch=self.watch,
            data_dir=self.data_folder,
            command=self.command,
        )


DEFAULT = Session()

P = ParamSpec("P")
R = TypeVar("R")


def _with_session(
    function: Callable[P, R], around: Callable[[Session], AbstractContextManager[Session]]
) -> Callable[P, R]:
    """Call a function that takes a `session` within a context that may give it another one.

    Model folders run code of their own in there if the session trusts them.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        bound = signature.bind(*arguments, **options)
        session = bound.arguments.get("session", DEFAULT)
        if not isinstance(session, Session):
            raise RequestError(f"session: expected fw.Session(...), found {session!r}")
        with trusting(session.trust_remote_code), around(session) as inner:
            bound.arguments["session"] = inner
            return function(*bound.args, **bound.kwargs)

    called.__signature__ = readable_signature(function)  # pyright: ignore[reportAttributeAccessIssue]
    return called


@contextmanager
def _held(session: Session) -> Iterator[Session]:
    with locks.working(session.store, session.command, session.watch):
        yield session


def reads_models(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function read models with the trust of its session; it shows and holds nothing."""
    return _with_session(function, nullcontext)


def in_use(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function hold its runs root in use: another process cannot remove things meanwhile."""
    return _with_session(function, _held)


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function show its progress, unless its session has a watcher of its own."""
    return _with_session(function, Session.watched)


def shows_what_takes_long(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function show what takes it longer than a moment, unless it has a watcher."""
    return _with_session(function, functools.partial(Session.watched, quiet=True))


def uses_runs_root(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function show its progress and hold its runs root in use."""
    return shows_progress(in_use(function))
