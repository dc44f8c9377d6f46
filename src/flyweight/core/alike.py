"""Work that is done piece by piece, all pieces alike: a dry run does the first ones alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

FIRST = 2
"""Pieces of a dry run: the second is there while what the first one made is still held."""

_first_alone: ContextVar[bool] = ContextVar("first_alone", default=False)


@contextmanager
def first_pieces_alone() -> Iterator[None]:
    """Let `pieces` yield the first ones alone."""
    token = _first_alone.set(True)
    try:
        yield
    finally:
        _first_alone.reset(token)


def pieces(work: Iterable[T], first: int = FIRST) -> Iterator[T]:
    """Yield the pieces of some work; they hold equally much memory, but for a smaller last one."""
    return islice(work, first if _first_alone.get() else None)
