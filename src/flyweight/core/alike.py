"""Loops whose turns are alike: a dry run, which only counts memory, makes the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeVar

Part = TypeVar("Part")

_few: ContextVar[bool] = ContextVar("few", default=False)


@contextmanager
def few_turns() -> Iterator[None]:
    """Let loops over `alike` parts end early: what the first turns hold, the others hold too."""
    token = _few.set(True)
    try:
        yield
    finally:
        _few.reset(token)


def alike(parts: Iterable[Part], enough: int) -> Iterator[Part]:
    """Yield all parts, or in a dry run the first `enough` of them."""
    yield from islice(parts, enough if _few.get() else None)
