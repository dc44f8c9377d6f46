"""How a target is judged: a bound on the change from one model's number to another's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flyweight.config.units import format_short, format_signed
from flyweight.reports.layouts.content import (
    LinkedCell,
    TargetComparison,
    TargetVerdict,
    first_missing,
    missing_cell,
)
from flyweight.reports.layouts.measured_run import DASH


@dataclass(frozen=True)
class Bound:
    """How large a change has to be: at most, or at least, `value`; `share` of the baseline's.

    With `itself` the number after is held to the bound, whatever was before.
    """

    value: float
    side: Literal["at most", "at least"]
    kind: Literal["share", "times", "difference", "itself"]
    digits: int = 2
    """Decimals of a difference."""
    write: Callable[[float], str] = format_short
    """How a number that is held to the bound itself is written."""

    def holds(self, change: float) -> bool:
        """Whether a change is as large as asked."""
        return change <= self.value if self.side == "at most" else change >= self.value

    def of(self, before: float, after: float) -> float:
        """Return the change from one number to another."""
        if self.kind == "itself":
            return after
        if self.kind == "difference":
            return after - before
        return after / before - (1.0 if self.kind == "share" else 0.0)

    def written(self, change: float) -> str:
        """Return a change as a page shows it."""
        if not math.isfinite(change):
            return "not finite"
        return f"{self._number(change)}{UNITS[self.kind]}"

    def range(self, low: float, high: float) -> str:
        """Return the ends of a change as a page shows them; empty where they are one."""
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            return ""
        return f"{self._number(low)} {DASH} {self._number(high)}{UNITS[self.kind]}"

    def _number(self, change: float) -> str:
        if self.kind == "share":
            return format_signed(100 * change, 1)
        if self.kind == "itself":
            return self.write(change)
        return f"{change:.2f}" if self.kind == "times" else format_signed(change, self.digits)


UNITS = {"share": " %", "times": " times", "difference": "", "itself": ""}
"""What is written after a change, by its kind."""


def compared(control: str, before: LinkedCell, after: LinkedCell, bound: Bound) -> TargetComparison:
    """Compare two cells; the range of the change is that of the ends of their intervals."""
    why = first_missing([before, after])
    if not why and bound.kind in ("share", "times") and 0 in _ends(before):
        why = "the baseline's number is 0, so there is no change in shares of it"
    if why:
        return judged(control, before, after, missing_cell(why), bound)
    first, second = _ends(before), _ends(after)
    value = bound.of(first[0], second[0])
    changes = (bound.of(first[2], second[1]), bound.of(first[1], second[2]))
    return judged(
        control, before, after, change_cell(before, after, (value, *changes), bound), bound
    )


def _ends(cell: LinkedCell) -> tuple[float, float, float]:
    """Return a cell's value and the ends of its interval, which are the value where it is exact."""
    assert cell.number is not None
    low = cell.number if cell.low is None else cell.low
    high = cell.number if cell.high is None else cell.high
    return cell.number, low, high


def change_cell(
    before: LinkedCell, after: LinkedCell, ends: tuple[float, float, float], bound: Bound
) -> LinkedCell:
    """Return a change as a cell; `ends` are its value and the ends of its interval."""
    value, low, high = ends
    return LinkedCell(
        value=value,
        unit=bound.kind,
        text=bound.written(value),
        sub=bound.range(low, high),
        low=low,
        high=high,
        artifacts=(*before.artifacts, *after.artifacts),
    )


def judged(
    control: str, before: LinkedCell, after: LinkedCell, change: LinkedCell, bound: Bound
) -> TargetComparison:
    """Return a comparison with its verdict; none where the change is missing."""
    return TargetComparison(control, before, after, change, _verdict(change, bound))


def _verdict(change: LinkedCell, bound: Bound) -> TargetVerdict:
    if change.number is None:
        return "not measured"
    ends = [end for end in (change.low, change.high) if end is not None]
    if len({bound.holds(value) for value in (change.number, *ends)}) > 1:
        return "undecided"
    return "reached" if bound.holds(change.number) else "not reached"
