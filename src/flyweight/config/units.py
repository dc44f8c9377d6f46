"""Quantities with units as people write them: sizes `6GB`, counts `50M`, times `10min`.

Sizes know powers of ten (`kB`, `MB`, `GB`, `TB`) and of two (`KiB`, `MiB`, `GiB`, `TiB`). Sizes and
times need their unit; a count may be a bare number.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

MOST_BYTES = 1e18
"""The largest size: a million machines with a terabyte each."""

MOST = 1e30
"""The largest quantity: all the computing there has ever been is some 1e28 operations."""

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")
_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_COUNT = {"": 1.0, "K": 1e3, "B": 1e9, **_SUFFIXES}
_SIZE = {
    **{"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    **{"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
}
_TIME = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _quantity(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units:
        names = ", ".join(unit for unit in units if unit)
        near = "" if match is None else _meant(match[1], match[2], units)
        raise ValueError(
            f"{text!r} is not a {what}{near}; write it like {example} (units: {names})"
        )
    value = float(match[1]) * units[match[2]]
    if value > MOST:
        raise ValueError(f"{text!r} is too large for a {what}")
    return value


def _meant(number: str, unit: str, units: dict[str, float]) -> str:
    """Return the question for a unit that is nearly one: other letters, or a last one left out."""
    written = {unit.lower(), f"{unit.lower()}b", unit.lower().removesuffix("s")}
    near = next((each for each in units if each and each.lower() in written), None)
    return f" (did you mean {number}{near}?)" if unit and near else ""


def parse_count(value: object) -> int:
    """Return a count such as `50M`, `1.5e15` or 1200 as a whole number.

    Raises ValueError for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a count; write it like 50M or 1.5e15")
    if isinstance(value, str):
        value = _quantity(value, _COUNT, "count", "50M or 1.5e15")
    if not (0 <= value <= MOST) or value != int(value):
        raise ValueError(f"{value!r} is not a whole, non-negative count")
    return int(value)


def parse_size(value: object) -> int:
    """Return a size such as `6GB` or `512MiB` in bytes; a number without a unit is refused."""
    example = "6GB or 512MiB"
    size = _quantity(_text(value, "size", example), _SIZE, "size", example)
    if size > MOST_BYTES:
        raise ValueError(f"{value!r} is too large for a size: no machine has that much")
    return round(size)


def _text(value: object, what: str, example: str) -> str:
    """Return what is text; raise ValueError for a bare number, or another value."""
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    why = ": the unit is missing" if number else ""
    raise ValueError(f"{value!r} is not a {what}{why}; write it like {example}")


def parse_time(value: object) -> float:
    """Return a time such as `30s`, `10min` or `2h` in seconds.

    A number without a unit is refused.
    """
    example = "30s, 10min or 2h"
    return _quantity(_text(value, "time", example), _TIME, "time", example)


_ROUNDED = 0.9995
"""Of a unit, from which on three digits round up to all of it: 999_999 is `1 M`, not `1e+03 k`."""


def format_size(size: float) -> str:
    """Return bytes as people read them, in powers of ten: 1_234_567 -> `1.23 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= _ROUNDED * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def size_word(size: float) -> str:
    """Return the smallest size of three digits that is not below `size`, as it is written.

    1_234_567 -> `1.24MB`.
    """
    unit, factor = next(
        ((unit, _SIZE[unit]) for unit in ("TB", "GB", "MB", "kB") if size >= _SIZE[unit]),
        ("B", 1.0),
    )
    digits = max(0, 2 - math.floor(math.log10(max(1.0, size / factor))))
    places = 10**digits
    return f"{math.ceil(size / factor * places - 1e-9) / places:g}{unit}"


def count_word(count: float) -> str:
    """Return the smallest count of three digits that is not below `count`, as it is written.

    1_234_567 -> `1.24e6`.
    """
    if count < 1000:
        return f"{math.ceil(count)}"
    power = math.floor(math.log10(count) + 1e-12)
    return f"{math.ceil(count / 10.0 ** (power - 2) - 1e-9) / 100:g}e{power}"


def format_count(count: float) -> str:
    """Return a count as people read it: 1_234_567 -> `1.23 M`, 3.2e15 -> `3.2 P`, 343.885 -> `344`.

    Beyond 1000 E the exponent is written out: `3.14e23`.
    """
    if abs(count) >= _ROUNDED * 1e21:
        return f"{count:.3g}".replace("e+", "e")
    for unit, factor in reversed(_SUFFIXES.items()):
        if abs(count) >= _ROUNDED * factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.3g}"


def format_flops(flops: float) -> str:
    """Return FLOPs as people read them: 3.51e8 -> `351 MFLOPs`, 344 -> `344 FLOPs`."""
    number, _, prefix = format_count(flops).partition(" ")
    return f"{number} {prefix}FLOPs"


def format_rate(per_second: float) -> str:
    """Return a rate in full down to units, or with three digits below 100: 1174.3 -> `1,174`."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def format_bits(value: float) -> str:
    """Return bits per byte or nats per token with three decimals: 1.8551 -> `1.855`."""
    return f"{value:.3f}" if math.isfinite(value) else _not_finite(value)


def format_perplexity(value: float) -> str:
    """Return a perplexity with three digits or down to units: `4.70`, `157`, `1,234`, `3.64 M`."""
    if not math.isfinite(value):
        return _not_finite(value)
    if abs(value) >= 1e5:
        return format_count(value)
    whole = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(2, max(0, 2 - whole))}f}"


def _not_finite(value: float) -> str:
    return "not a number" if math.isnan(value) else "infinite"


def decimals_of_difference(low: float, high: float, least: int = 3) -> int:
    """Return the decimals for a difference and its interval: `least` to nine, for two figures."""
    largest = max(abs(low), abs(high))
    if largest == 0 or not math.isfinite(largest):
        return least
    return min(9, max(least, 1 - math.floor(math.log10(largest))))


def format_signed(value: float, decimals: int = 3) -> str:
    """Return a difference with its sign, a true minus included: `+0.012`."""
    sign = "+" if value >= 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(value):.{decimals}f}"


def format_short(value: float) -> str:
    """Return a number with three digits, and a short exponent: `24.8`, `3e-4`, `infinite`."""
    if not math.isfinite(value):
        return _not_finite(value)
    return _short_exponent(f"{value:.3g}")


def _short_exponent(text: str) -> str:
    return re.sub(r"e([+-])0?", r"e\1", text).replace("e+", "e")


def format_p(p: float) -> str:
    """Return a p-value: `p = 0.0011`, or `p < 1e-12` where only its size matters."""
    if p < 1e-12:
        return "p < 1e-12"
    return f"p = {_short_exponent(f'{p:.2g}')}"


def format_percent(share: float) -> str:
    """Return a share in whole percent, or with one digit below 10 %."""
    return f"{100 * share:.0f} %" if abs(share) >= 0.1 else f"{100 * share:.1f} %"


def format_times(ratio: float) -> str:
    """Return a factor as people say it: `3.4 times`."""
    return f"{ratio:.2g} times" if ratio < 10 else f"{ratio:.0f} times"


def format_short_time(seconds: float) -> str:
    """Return seconds in one unit, for narrow columns: `131 s`, `35 min`, `2.1 h`."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_number(value: float) -> str:
    """Return a measured number with five digits and no exponent: 1.8551, 12,346, `1.2 M`."""
    if not math.isfinite(value):
        return _not_finite(value)
    if abs(value) >= 1e5:
        return format_count(value)
    if abs(value) >= 1e-4 or value == 0:
        return f"{value:,.5g}"
    return _short_exponent(f"{value:.2g}")


def format_time(seconds: float) -> str:
    """Return seconds as people read them: 83 -> `1 min 23 s`, 7200 -> `2 h`."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (0 if hours else rest, "s"))
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount)


# A unit is read only from text; a number that is already in the base unit comes from our own
# resolved configs.
def _resolved(parse: Any) -> Any:
    def read(value: Any, info: Any) -> Any:
        resolved = (info.context or {}).get("resolved", False)
        return (
            value
            if resolved and isinstance(value, (int, float)) and not isinstance(value, bool)
            else parse(value)
        )

    return read


Count = Annotated[
    int, BeforeValidator(parse_count), WithJsonSchema({"type": ["integer", "number", "string"]})
]
Steps = Annotated[Count, Field(gt=0, le=10**12)]
"""Updates of a training: the most would take a hundred years at 3 ms each."""
Tokens = Annotated[Count, Field(gt=0, le=10**18)]
"""Tokens to read: all that was ever written is some 1e15."""
Size = Annotated[
    int,
    BeforeValidator(_resolved(parse_size)),
    WithJsonSchema({"type": "string", "examples": ["6GB"]}),
]
Seconds = Annotated[
    float,
    BeforeValidator(_resolved(parse_time)),
    WithJsonSchema({"type": "string", "examples": ["10min"]}),
]
