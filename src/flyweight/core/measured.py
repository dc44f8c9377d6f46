"""Facts measured once on a machine and kept in the runs root; every later process decides alike.

Each fact is a file of its own, `.measured/<name>-<8 hex digits>.json`. Its name follows from the
processor, the versions and the thread count that it holds for. Where two processes measure at the
same time, the value of the first to finish is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil

from flyweight.core.events import Watcher, ignore
from flyweight.core.files import (
    digest,
    disk_errors,
    read_sealed,
    refuse_link,
    write_sealed,
)
from flyweight.core.pinned import PinnedFolder
from flyweight.errors import FlyweightError

FOLDER = ".measured"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Fact(Generic[Value]):
    """A measurement: what it depends on (`key`), how to `measure` it, and how it is kept.

    `plain` gives a value as plain data, and `read` reads it back. `read` raises KeyError, TypeError
    or ValueError for data that cannot be such a value. `label` is its name in messages.
    """

    name: str
    label: str
    key: Mapping[str, Any]
    measure: Callable[[], Value]
    plain: Callable[[Value], Any]
    read: Callable[[Any], Value]

    def path(self, root: Path) -> Path:
        """Return the file that keeps this fact in a runs root."""
        return root / FOLDER / f"{self.name}-{digest(dict(self.key))[:8]}.json"


def obtain(fact: Fact[Value], root: Path | None, watch: Watcher = ignore) -> tuple[Value, bool]:
    """Return the value kept in a runs root, or measure and keep it.

    The flag says whether it was measured now. A damaged file is replaced, and `watch` hears of it.
    Where the file cannot be written the value is good for this process alone, and `watch` hears of
    that too. Nothing is kept where `root` is None or does not exist yet.
    """
    if root is None or not root.is_dir():
        return fact.measure(), True
    path = fact.path(root)
    damaged = False
    if os.path.lexists(path):
        try:
            refuse_link(path.parent)
            return _kept(fact, path), False
        except FlyweightError as error:
            damaged = True
            watch("unkept", {"what": fact.label, "why": str(error)})
    value = fact.measure()
    try:
        return _keep(fact, path, value, damaged)
    except FlyweightError as error:
        watch("unkept", {"what": fact.label, "why": str(error)})
        return value, True


def _kept(fact: Fact[Value], path: Path) -> Value:
    """Return the value in a file.

    Raises FlyweightError where the file is damaged or was written for another fact.
    """
    refuse_link(path)
    content = read_sealed(path)
    if content.get("key") != dict(fact.key):
        raise FlyweightError(f"{path} holds for another machine or version")
    try:
        return fact.read(content.get("value"))
    except (KeyError, TypeError, ValueError) as error:
        raise FlyweightError(f"{path} holds no such measurement") from error


def _clear(path: Path) -> None:
    """Remove what killed processes left of this file; the names hold the processes' numbers."""
    for leftover in path.parent.glob(f".*{path.name}.*"):
        numbers = [int(part) for part in leftover.name.split(".") if part.isdecimal()]
        if numbers and not any(map(psutil.pid_exists, numbers)):
            leftover.unlink(missing_ok=True)


def _keep(fact: Fact[Value], path: Path, value: Value, replace: bool) -> tuple[Value, bool]:
    """Write a new value; where another process was first, return the value that it wrote."""
    with PinnedFolder(path.parent) as place:
        return _keep_in(fact, place.path / path.name, value, replace)


def _keep_in(fact: Fact[Value], path: Path, value: Value, replace: bool) -> tuple[Value, bool]:
    _clear(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write_sealed(fresh, {"name": fact.name, "key": dict(fact.key), "value": fact.plain(value)})
        with disk_errors(path):
            if replace:
                os.replace(fresh, path)
                return value, True
            with suppress(FileExistsError):
                os.link(fresh, path)
                return value, True
        return _kept(fact, path), False
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
