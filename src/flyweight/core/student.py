"""Student's t distribution, for intervals over a few independent runs."""

from __future__ import annotations

import math
from collections.abc import Sequence


def student(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of independent runs with its Student t interval.

    Raises ValueError for fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} values: an interval needs at least two")
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_quantile((1 + level) / 2, count - 1) * deviation / math.sqrt(count)
    return mean, mean - half, mean + half


def two_sided_p(mean: float, half: float, count: int, level: float = 0.95) -> float:
    """Return the p-value of 0 for a mean of `count` runs whose interval reaches `half` each way."""
    if half == 0:
        return 0.0 if mean else 1.0
    t = abs(mean) / half * student_quantile((1 + level) / 2, count - 1)
    return 2 * student_below(-t, count - 1)


def student_below(t: float, free: int) -> float:
    """Return P(T <= t) of Student's t with `free` degrees of freedom, a whole number.

    The formulas are 26.7.3 and 26.7.4 of Abramowitz and Stegun.
    """
    angle = math.atan2(t, math.sqrt(free))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = 1.0, 1.0 if free > 1 else 0.0
    for step in range(1 + free % 2, free - 2, 2):
        term *= cosine * cosine * step / (step + 1)
        total += term
    if free % 2:
        below = 0.5 + (angle + sine * cosine * total) / math.pi
    else:
        below = 0.5 + 0.5 * sine * total
    return min(1.0, max(0.0, below))  # far out the terms cancel to less than rounding


def student_quantile(probability: float, free: int) -> float:
    """Return the t with P(T <= t) = `probability`, by halving an interval."""
    low, high = -1e8, 1e8
    for _ in range(200):
        middle = 0.5 * (low + high)
        if student_below(middle, free) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
