"""Parts of messages: the nearest known name, and a value as it is quoted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" for the closest known name, or the first names."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, 1, 0.5):
        return f" (did you mean {close[0]}?)"
    if not known:
        return ""
    more = len(known) - LISTED
    return f" (known: {', '.join(known[:LISTED])}{f' and {more} more' if more > 0 else ''})"


def shown(value: object) -> str:
    """Return a value as a message quotes it: whole where it is short."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


LISTED = 20
"""Names that a message lists where none is close to the one that was given."""
