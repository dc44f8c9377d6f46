"""What a planted mistake is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from audit_fixture import Lab

from flyweight.records.audit import Check

Outcome = Literal["caught", "refused", "impossible"]


@dataclass(frozen=True)
class Mistake:
    """A mistake of a page of `spec`, by its number there, and how to make it.

    Where it is caught, `plant` returns the check `by`, failed, and `sound` the same check without
    the mistake. Where it is refused, `plant` raises RequestError. Where it is impossible, `plant`
    asserts that what would be needed does not exist or changes nothing.
    """

    name: str
    page: str
    number: int
    about: str
    outcome: Outcome
    by: str
    plant: Callable[[Lab], Check | None]
    sound: Callable[[Lab], Check] | None = None
