"""What the harnesses share: a small text and recipe in a folder of their own, and the command line run on them.

The command line runs in this process (`call`), or in a fork of it that has imported everything
already and dies of SIGKILL where the harness says (`Attempt`). Python's audit hooks tell every file
operation just before it happens, so that a fork can be killed at a named one without any hook in
the product.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flyweight import cli

WRITES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "shutil.copyfile",
}
"""Audit events that change the disk, besides an `open` for writing."""


def alone(folder: Path) -> None:
    """Keep this process to itself: no network, no threads that a fork would lose, and everything imported that a run needs.

    To that end a recipe of a few steps runs once in `folder`: much is imported only when it is
    first needed.
    """
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    import torch

    import flyweight.api  # noqa: F401

    torch.set_num_threads(1)
    answer = call(
        "run", write_recipe(folder), "train.steps=2", "--threads", 1, "--runs", folder / "runs"
    )
    assert answer.status == 0, answer
    shutil.rmtree(folder)


def story(path: Path, lines: int = 1200, seed: int = 0) -> Path:
    """Write a text that a toy model can learn."""
    draw = random.Random(seed)
    names, verbs, things = (
        ["Ann", "Bob", "the king"],
        ["sees", "takes", "wants"],
        ["a model", "the budget", "one small word"],
    )
    said = [
        f"{draw.choice(names)} {draw.choice(verbs)} {draw.choice(things)}." for _ in range(lines)
    ]
    path.write_text("\n".join(said) + "\n", encoding="utf-8")
    return path


def recipe(text: Path, name: str = "toy") -> dict[str, Any]:
    """Return a recipe with training, distillation and quantization whose checkpoints come every few steps."""
    return {
        "name": name,
        "data": {"corpus": str(text), "tokenizer": "byte", "context": 32},
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "train": {
            "steps": 24,
            "batch": 4,
            "validations": 3,
            "checkpoint": "40ms",
            "optimizer": "muon",
        },
        "stages": {
            "teacher": {"stage": "pretrain", "model": {"dim": 32}},
            "student": {"stage": "distill", "teacher": "teacher"},
            "int8": {"stage": "quantize", "input": "student", "kind": "int8"},
        },
        "report": {"measure": ["evaluate", "audit"], "prompts": ["Ann "], "sample_tokens": 8},
    }


def write_recipe(folder: Path, name: str = "toy", **fields: Any) -> Path:
    """Write text and recipe into a folder and return the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    text = folder / "story.txt"
    path.write_text(
        yaml.safe_dump(
            {**recipe(text if text.exists() else story(text), name), **fields}, sort_keys=False
        )
    )
    return path


def rows(path: Path, count: int = 160) -> Path:
    """Write a task that a toy model can learn: a number and a letter, and the letter that follows."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    examples = [
        {"prompt": f"{n} {letters[n % 25]}:", "completion": f" {letters[n % 25 + 1]}"}
        for n in range(count)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in examples), encoding="utf-8")
    return path


def write_finetune_recipe(folder: Path, name: str = "finetune") -> Path:
    """Write text, rows and a recipe of fine-tuning into a folder and return the recipe's path.

    A base is trained and packed; the packed and the dense one are fine-tuned, merged and scored.
    """
    task = str(rows(folder / "rows.jsonl"))
    tuned = {
        "stage": "finetune",
        "data": {"task": task, "context": 32},
        "train": {"steps": 24, "batch": 8, "optimizer": {"kind": "adamw", "lr": 0.01}},
    }
    lora = {"kind": "lora", "r": 2, "dropout": 0.1}
    stages = {
        "base": {"stage": "pretrain"},
        "packed": {"stage": "quantize", "input": "base", "kind": "nf4"},
        "qlora": {**tuned, "input": "packed", "method": lora},
        "full": {**tuned, "input": "base", "method": "full"},
        "lora": {**tuned, "input": "base", "method": lora},
        "merged": {"stage": "merge", "input": "lora"},
        "scored": {
            **{"stage": "score", "input": "merged", "task": task, "limit": 4, "new_tokens": 4},
            "metrics": ["exact_match", "f1", "completion_perplexity"],
        },
    }
    report = {"measure": ["evaluate"], "compare": ["qlora", "full", "merged"]}
    return write_recipe(folder, name, stages=stages, report=report)


@dataclass(frozen=True)
class Answer:
    """What a command ended with.

    `crash` is an exception that came through, which a user would see as a traceback.
    """

    status: int
    out: str
    err: str
    crash: BaseException | None = None


def call(*words: Any) -> Answer:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["flyweight", *map(str, words)]
    status, crash = 0, None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception as error:
        status, crash = 1, error
    finally:
        sys.argv = before
    return Answer(status, out.getvalue(), err.getvalue(), crash)


def writing(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the paths that an audit event is about to change, by the names of their folders.

    None for an event that only reads.
    """
    return [_by_name(path) for path in _changed(event, arguments)]


def _by_name(path: str) -> str:
    """Return a path through an open folder (`/proc/PID/fd/N/...`) as one through its present name."""
    if opened := re.match(r"/proc/(?:self|\d+)/fd/\d+(?=/|$)", path):
        with contextlib.suppress(OSError):
            return os.readlink(opened[0]) + path[opened.end() :]
    return path


def _changed(event: str, arguments: tuple[Any, ...]) -> list[str]:
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(flags, int) and flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
        )
        return [os.fsdecode(path)] if changes and isinstance(path, str | bytes) else []
    if event not in WRITES:
        return []
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    if (
        isinstance(folder, int) and folder >= 0
    ):  # the name is one in an open folder, as rmtree gives it
        return [os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(arguments[0]))]
    if event in ("os.symlink", "os.link", "shutil.copyfile"):
        arguments = arguments[1:]  # what it points to, or is copied from, is not touched
    return [os.fsdecode(path) for path in arguments if isinstance(path, str | bytes | os.PathLike)]


def label(event: str, paths: list[str], runs: Path) -> str | None:
    """Return a file operation's name without hashes and numbers, or None where it is outside of the runs root."""
    inside = [os.path.relpath(path, runs) for path in paths]
    if not inside or inside[0].startswith(".."):
        return None
    plain = [re.sub(r"-[0-9a-f]{8}\b|(?<=/tokenizer)-\w{8}\b", "", path) for path in inside]
    plain = [
        re.sub(r"\.[0-9]+\.partial$", ".partial", re.sub(r"step-[0-9]+", "step", path))
        for path in plain
    ]
    return f"{event} {' -> '.join(dict.fromkeys(plain))}"


class Attempt:
    """A fork that runs one command in a process group of its own.

    `die_at` is the operation before which it kills itself, or calls `then` with the operation's
    paths, once.
    """

    def __init__(
        self,
        words: list[str],
        runs: Path,
        log: Path,
        die_at: str | None = None,
        heard: Path | None = None,
        then: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            sys.argv = ["flyweight", *words, "--runs", str(runs)]
            sys.addaudithook(self._hook(runs, die_at, heard, then))
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(status)

    @staticmethod
    def _hook(
        runs: Path,
        die_at: str | None,
        heard: Path | None,
        then: Callable[[list[str]], None] | None,
    ) -> Callable[[str, tuple[Any, ...]], None]:
        told = None if heard is None else os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        waits = die_at is not None

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal waits
            if paths := writing(event, arguments):
                name = label(event, paths, runs)
                if told is not None and name:
                    os.write(told, f"{name}\n".encode())
                if waits and name == die_at:
                    waits = False
                    if then is None:
                        os.killpg(0, signal.SIGKILL)
                    else:
                        then(paths)

        return hook

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit status (negative: the signal), or None where it still runs after `seconds`."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.pid, 0 if end is None else os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if end is not None and time.monotonic() > end:
                return None
            time.sleep(0.0005)

    def kill(self) -> None:
        """Kill the fork and everything it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


TIMES = {
    *("at", "seconds", "took", "total_seconds", "tokens_per_s", "created", "command", "reused"),
    *(
        "tokenizer_seconds",
        "megabytes_per_second",
        "peak_bytes",
        "memory_used",
        "used",
        "digest",
        "environment",
        "budget",
        "bench",
    ),
}
"""Keys of JSON files that tell of a run and not of its result."""


def timeless(value: Any) -> Any:
    """Return plain data without the clock's part of it."""
    if isinstance(value, dict):
        kept = {key: timeless(inner) for key, inner in value.items() if key not in TIMES}
        if isinstance(curve := kept.get("curve"), dict):
            curve["validation"] = [
                [step, nll, flops] for step, nll, _seconds, flops in curve["validation"]
            ]
        return kept
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """Return what must not depend on interruptions: a file's bytes, or for JSON what is left of it without times."""
    raw = path.read_bytes()
    if path.name.endswith(".jsonl"):
        return [timeless(json.loads(line)) for line in raw.splitlines()]
    if path.suffix != ".json":
        return raw
    value = timeless(json.loads(raw))
    if path.name == "manifest.json":  # its files are compared themselves
        value["files"] = sorted(value["files"])
    return value


def files(root: Path) -> Iterator[Path]:
    """Yield every file under a folder, links to folders not followed."""
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in sorted(names))


def results(runs: Path) -> dict[str, Any]:
    """Return everything under a runs root that a repeated run has to reproduce, by relative path."""
    found: dict[str, Any] = {}
    for path in files(runs):
        name = path.relative_to(runs).as_posix()
        if not name.startswith(
            (".locks/", ".measured/", "rates.json")
        ):  # of the machine, not of the run
            drawn = path.suffix == ".html" or path.name.startswith(
                ("table.", "card-")
            )  # from summary and manifests, with times
            found[name] = None if drawn or name.startswith("bench-") else content(path)
    for link in (path for path in runs.glob("*/*") if path.is_symlink()):
        found[link.relative_to(runs).as_posix()] = os.readlink(link)
    return found
