"""Which of several compressed models is taken: validation text and the limit decide."""

from __future__ import annotations

from collections.abc import Sequence

from flyweight.config.limits import Limit, percent
from flyweight.config.units import size_word
from flyweight.errors import FlyweightError
from flyweight.records.compression import Tried


def front(tried: Sequence[Tried]) -> tuple[str, ...]:
    """Return the names of the Pareto front, from few bytes to many: no other way beats these."""
    best = [one for one in tried if not any(other.beats(one) for other in tried)]
    return tuple(one.name for one in sorted(best, key=lambda one: one.bytes))


def fits(one: Tried, limit: Limit, base: float) -> bool:
    """Return whether a try is within the limit; `base` are the model's own bits per byte."""
    if limit.kind == "bytes":
        return one.bytes <= limit.value
    if limit.kind == "speed":
        return (one.speed or 0.0) >= limit.value
    return one.bits_per_byte.value <= base * (1 + limit.value)


def choose(tried: Sequence[Tried], limit: Limit, base: float) -> Tried:
    """Return the best try within the limit: of a loss the smallest, else that of fewest bits.

    Raises FlyweightError, with the nearest that can be met, where none is within it.
    """
    within = [one for one in tried if fits(one, limit, base)]
    if not within:
        raise FlyweightError(_nearest(tried, limit, base))
    return min(within, key=_bytes_first if limit.kind == "loss" else _bits_first)


def choose_plain(
    tried: Sequence[Tried], limit: Limit, chosen: Tried, base: float
) -> tuple[Tried, bool]:
    """Return the plain quantization to hold the chosen way against, and whether it fits.

    It is the best one within the limit; of a loss, the best one of no more bytes than the chosen
    way. Where none fits, it is the smallest.
    """
    plain = [one for one in tried if one.plain]
    if limit.kind == "loss":
        within = [one for one in plain if one.bytes <= chosen.bytes]
    else:
        within = [one for one in plain if fits(one, limit, base)]
    if within:
        return min(within, key=_bits_first), True
    return min(plain, key=_bytes_first), False


def _bits_first(one: Tried) -> tuple[float, float]:
    return one.bits_per_byte.value, one.bytes


def _bytes_first(one: Tried) -> tuple[float, float]:
    return one.bytes, one.bits_per_byte.value


def _nearest(tried: Sequence[Tried], limit: Limit, base: float) -> str:
    if limit.kind == "bytes":
        best = min(tried, key=_bytes_first)
        return f"no way takes {limit}; the nearest is {best.name}: --bytes {size_word(best.bytes)}"
    if limit.kind == "speed":
        best = max(tried, key=lambda one: one.speed or 0.0)
        return f"no way is {limit}; the nearest is {best.name}, {best.speed or 0:.3g} times"
    best = min(tried, key=_bits_first)
    loss = best.bits_per_byte.value / base - 1
    return f"no way costs {limit}; the nearest is {best.name}, which costs {percent(loss)}"
