"""Write what happens in a run to `events.jsonl` at once, and show it to whoever watches."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flyweight.core.files import disk_errors, read_bytes, sync_file
from flyweight.errors import FlyweightError

Watcher = Callable[[str, dict[str, Any]], None]
"""Called with an event's kind and fields: the terminal display, a tracker, a test."""


def ignore(kind: str, fields: dict[str, Any]) -> None:
    """Watch nothing."""


class Events:
    """An append-only log of how one artifact is made.

    A resumed run calls `rewind` with the mark in its checkpoint; no step is then logged twice.
    `guard` is called before the log is written: it raises where that must not be.
    """

    def __init__(
        self, path: Path, watch: Watcher = ignore, guard: Callable[[], object] = bool
    ) -> None:
        self.path = path
        self.watch = watch
        self.guard = guard

    def emit(self, kind: str, **fields: object) -> None:
        """Append one event and show it to the watcher."""
        self.guard()
        with (
            disk_errors(self.path),
            open(self.path, "a", encoding="utf-8", opener=_not_through_a_link) as file,
        ):
            file.write(json.dumps({"event": kind, "at": round(time.time(), 3), **fields}) + "\n")
        self.watch(kind, fields)

    def mark(self) -> tuple[int, str]:
        """Make the log durable and return its length in bytes and its SHA-256."""
        if not self.path.exists():
            return 0, hashlib.sha256().hexdigest()
        with disk_errors(self.path):
            sync_file(self.path)
            content = read_bytes(self.path)
        return len(content), hashlib.sha256(content).hexdigest()

    def rewind(self, length: int, checksum: str) -> None:
        """Cut the log back to the `length` bytes of a mark.

        Raises FlyweightError where the log does not begin with the bytes of that checksum.
        """
        if not self.path.exists() and not length:
            return
        content = read_bytes(self.path) if self.path.exists() else b""
        if len(content) < length or (
            length and hashlib.sha256(content[:length]).hexdigest() != checksum
        ):
            raise FlyweightError(
                f"{self.path} is damaged: it does not match the checkpoint beside it, and this run "
                f"cannot go on from there. Delete {self.path.parent} to start it again"
            )
        self.guard()
        with disk_errors(self.path), open(self.path, "r+b", opener=_not_through_a_link) as file:
            file.truncate(length)


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def read_events(path: Path) -> list[dict[str, object]]:
    """Return a log's events in order.

    Raises FlyweightError for a line that is not JSON.
    """
    events = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            events.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise FlyweightError(
                f"{path}, line {number}: not an event ({error}); the file is damaged"
            ) from error
    return events
