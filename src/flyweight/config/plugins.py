"""Packages that add stages, metrics and layers, imported when recipes are read.

A package names a module in the entry point group `flyweight.plugins`; importing that module
registers what it adds. Nothing in the working folder is imported: neither a package that lies there
nor a file that has the name of one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from flyweight.errors import RequestError

GROUP = "flyweight.plugins"


@lru_cache(maxsize=1)
def load_plugins() -> tuple[str, ...]:
    """Import every installed plug-in, once a process, and return their names.

    Raises RequestError that names a plug-in which cannot be imported.
    """
    with _without_the_working_folder():
        points = metadata.entry_points(group=GROUP)
        for point in points:
            _load(point)
    return tuple(point.name for point in points)


def _load(point: metadata.EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        package = point.dist.name if point.dist else "an unnamed package"
        raise RequestError(
            f"the plug-in {point.name} of {package} cannot be imported ({point.value}: "
            f"{type(error).__name__}: {error}); repair the package, or remove it with "
            f"`pip uninstall {package}`"
        ) from error


@contextmanager
def _without_the_working_folder() -> Iterator[None]:
    """Leave the working folder out of the search for modules."""
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if not _is_working_folder(entry)]
    try:
        yield
    finally:
        added = [entry for entry in sys.path if entry not in before]
        sys.path[:] = [*before, *added]


def _is_working_folder(entry: str) -> bool:
    try:
        return not entry or Path(entry).resolve() == Path(os.getcwd()).resolve()
    except (OSError, ValueError, RuntimeError):
        return True  # an entry that leads nowhere, or a folder that is gone
