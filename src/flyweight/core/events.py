"""What happens in a run, as it happens: to `events.jsonl` and to whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flyweight.core.files import disk_errors
from flyweight.errors import FlyweightError

Watcher = Callable[[str, dict[str, Any]], None]
"""Called with an event's kind and fields: the terminal display, a tracker, a test."""


def ignore(kind: str, fields: dict[str, Any]) -> None:
    """Watch nothing."""


class Events:
    """An append-only log of one artifact's making.

    A resumed run calls `rewind` with the length that its checkpoint remembers, so that no step is logged twice.
    """

    def __init__(self, path: Path, watch: Watcher = ignore) -> None:
        self.path, self.watch = path, watch

    def emit(self, kind: str, **fields: Any) -> None:
        """Append one event and show it to the watcher."""
        with disk_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": kind, "at": round(time.time(), 3), **fields}) + "\n")
        self.watch(kind, fields)

    def length(self) -> int:
        """Return the log's length in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, length: int) -> None:
        """Cut the log back to `length` bytes."""
        if self.length() < length:
            raise FlyweightError(f"{self.path} is shorter than its checkpoint says: it is damaged; delete {self.path.parent}")
        if self.path.exists():
            with open(self.path, "r+b") as file:
                file.truncate(length)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return a log's events in order; raise FlyweightError when a line is broken."""
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise FlyweightError(f"{path}, line {number}: not an event ({error}); the file is damaged") from error
    return events
