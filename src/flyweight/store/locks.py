"""Know who works in a runs root right now: nothing is removed that a process needs.

A process that works there holds a lock file of its own, `.locks/.use-<8 hex digits>.lock`, for as
long as one command lasts. A process that removes things takes the gate first,
`.locks/.gate.lock`, and keeps it until the end. It removes nothing while any of the other locks is
held. A process that begins to work passes the same gate in an instant, and so waits for the end of
a removal. The locks belong to the operating system: those of a killed process are free.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import filelock

from flyweight.core.events import Watcher, ignore
from flyweight.core.files import disk_errors
from flyweight.errors import FlyweightError, RequestError
from flyweight.store.artifact import LOCKS, Store, lock_file

GATE, USE = ".gate", ".use-"
INSTANT = 2.0
"""Seconds for which a process that only passes may hold the gate."""


@contextmanager
def working(store: Store, command: str = "", watch: Watcher = ignore) -> Iterator[None]:
    """Hold a runs root in use: nothing is removed from it meanwhile.

    Nothing is held where the root cannot be written: the process then only reads, and reports a
    file that is gone.
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
        with _gate_lock(store, watch):
            mine = lock_file(store.root, f"{USE}{secrets.token_hex(4)}")
            path = Path(mine.lock_file)
            with disk_errors(path):
                mine.acquire(timeout=0)
    except RequestError:
        return None  # whatever has to write there will say so itself
    with suppress(OSError), _opened(path, os.O_WRONLY) as file:  # it is used in a message alone
        file.write(f"{os.getpid()} {command}")
    return mine


@contextmanager
def _gate_lock(store: Store, watch: Watcher) -> Iterator[None]:
    store.prepare()
    gate = lock_file(store.root, GATE)
    with disk_errors(Path(gate.lock_file)):
        try:
            gate.acquire(timeout=INSTANT)
        except filelock.Timeout:
            watch(
                "waiting",
                {
                    "id": str(store.root),
                    "why": "another process is removing what no recipe refers to",
                },
            )
            gate.acquire()
    try:
        yield
    finally:
        gate.release()


@contextmanager
def alone(store: Store, watch: Watcher = ignore) -> Iterator[None]:
    """Keep every other process from beginning to work in a runs root.

    Raises FlyweightError where one is working there already.
    """
    with _gate_lock(store, watch):
        for path in sorted((store.root / LOCKS).glob(f"{USE}*.lock")):
            if held(path):
                with _opened(path, os.O_RDONLY) as file:
                    process, _, command = file.read().partition(" ")
                who = f"process {process or 'unknown'}"
                if command:
                    who += f" ({command[:200]})"
                raise FlyweightError(
                    f"{who} is working in {store.root}, and may need what would be removed; try "
                    f"again when it is done"
                )
        yield


def held(lock: Path) -> bool:
    """Return whether some process holds a lock file.

    False for a file that is missing or cannot be written, and for a link or a folder of that name.
    """
    if not lock.exists():
        return False
    try:
        probe = lock_file(lock.parents[1], lock.name.removesuffix(".lock"))
    except RequestError:
        return False
    try:
        probe.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False
    probe.release()
    return False


def _opened(path: Path, flags: int) -> TextIO:
    """Open a lock file without emptying it; a link is not followed."""
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    mode = "r" if flags == os.O_RDONLY else "w"
    return os.fdopen(descriptor, mode, encoding="utf-8", errors="replace")
