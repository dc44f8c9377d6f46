"""Who works in a runs root right now, so that nothing is removed under a process that needs it.

A process that works there holds a lock file of its own, `.locks/.use-<8 hex digits>.lock`, for as long as one command lasts.
Whoever removes things takes the gate first, `.locks/.gate.lock`, keeps it until it is done, and goes no further while any of
the others is held; who begins to work passes the same gate in an instant, and so waits for the end of a removal. Locks are
the operating system's: those of a killed process are free.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from flyweight.core.artifact import Store
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import disk_errors
from flyweight.errors import FlyweightError, RequestError

GATE, USE = ".gate", ".use-"
INSTANT = 2.0
"""Seconds for which the gate may be held by one who only passes."""


@contextmanager
def working(store: Store, command: str = "", watch: Watcher = ignore) -> Iterator[None]:
    """Hold a runs root in use: nothing is removed from it meanwhile.

    Where nothing can be written there is no lock either: such a process only reads, and says so where a file is gone.
    """
    mine = _claim(store, command, watch)
    try:
        yield
    finally:
        if mine is not None:
            Path(mine.lock_file).unlink(missing_ok=True)
            mine.release()


def _claim(store: Store, command: str, watch: Watcher) -> filelock.BaseFileLock | None:
    try:
        with _gate(store, watch):
            path = store.root / ".locks" / f"{USE}{secrets.token_hex(4)}.lock"
            mine = filelock.FileLock(path)
            with disk_errors(path):
                mine.acquire(timeout=0)
    except RequestError:
        return None  # whatever has to write there will say so itself
    with suppress(OSError):  # who it is stands in a message at most
        path.write_text(f"{os.getpid()} {command}", encoding="utf-8", errors="replace")
    return mine


@contextmanager
def _gate(store: Store, watch: Watcher) -> Iterator[None]:
    store.prepare()
    gate = filelock.FileLock(store.root / ".locks" / f"{GATE}.lock")
    with disk_errors(Path(gate.lock_file)):
        try:
            gate.acquire(timeout=INSTANT)
        except filelock.Timeout:
            watch("waiting", {"id": str(store.root), "why": "another process is removing what no recipe refers to"})
            gate.acquire()
    try:
        yield
    finally:
        gate.release()


@contextmanager
def alone(store: Store, watch: Watcher = ignore) -> Iterator[None]:
    """Keep every other process from beginning to work in a runs root; raise FlyweightError where one is at it."""
    with _gate(store, watch):
        for path in sorted((store.root / ".locks").glob(f"{USE}*.lock")):
            if held(path):
                process, _, command = path.read_text(encoding="utf-8", errors="replace").partition(" ")
                who = f"process {process or 'unknown'}" + (f" ({command[:200]})" if command else "")
                raise FlyweightError(
                    f"{who} is working in {store.root}, and may need what would be removed; try again when it is done"
                )
        yield


def held(lock: Path) -> bool:
    """Return whether some process holds a lock file; one that is not there, or cannot be written, nobody is seen to hold."""
    if not lock.exists():
        return False
    probe = filelock.FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False
    probe.release()
    return False
