"""A measured number with everything needed to read it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import JsonValue


@dataclass(frozen=True, repr=False)
class Metric:
    """A value with its unit, its better direction and its confidence interval.

    `n` is how many things it was measured on. `low` and `high` bound the 95 % interval. Both equal
    `value` where a number is exact (a count, a size).
    """

    value: float
    unit: str
    better: Literal["lower", "higher"]
    n: int
    low: float
    high: float

    def __repr__(self) -> str:
        if self.low == self.high:
            return f"<Metric {self.value:,.5g} {self.unit}>"
        interval = f"95 % interval {self.low:,.5g} ... {self.high:,.5g}"
        return f"<Metric {self.value:,.5g} {self.unit}, {interval}, n = {self.n:,}>"

    @classmethod
    def exact(cls, value: float, unit: str, better: Literal["lower", "higher"] = "lower") -> Metric:
        """Return a metric of a number that is counted, not sampled."""
        return cls(value=value, unit=unit, better=better, n=1, low=value, high=value)

    def json(self) -> dict[str, JsonValue]:
        """Return the metric as plain data, in the field order above.

        A number that is infinite is the string `Infinity`, which JSON can hold.
        """
        return {
            key: "Infinity" if value == math.inf else value for key, value in asdict(self).items()
        }
