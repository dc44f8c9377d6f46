"""How much better one thing is than another on the same text, and whether that is decided."""

from __future__ import annotations

from typing import Literal

from flyweight.config.metrics import Better
from flyweight.records.sealed import Record

Verdict = Literal["better", "worse", "undecided"]


class Difference(Record):
    """The first model minus the second, paired, with its 95 % interval.

    `verdict` is about the first, by its interval alone; `better` is the direction that is better.
    """

    value: float
    low: float
    high: float
    unit: str
    better: Better = "lower"
    verdict: Verdict

    @classmethod
    def of(
        cls, value: float, low: float, high: float, unit: str, better: Better = "lower"
    ) -> Difference:
        """Return a difference with its verdict: decided only where the interval leaves out 0."""
        verdict: Verdict = "undecided"  # of bounds that are not numbers as well
        if high < 0:
            verdict = "better" if better == "lower" else "worse"
        elif low > 0:
            verdict = "worse" if better == "lower" else "better"
        return cls(value=value, low=low, high=high, unit=unit, better=better, verdict=verdict)
