"""Quantities with units as people write them: sizes `6GB`, counts `50M`, times `10min`.

Sizes know powers of ten (`kB`, `MB`, `GB`, `TB`) and of two (`KiB`, `MiB`, `GiB`, `TiB`). Sizes and
times need their unit; a count may be a bare number.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

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
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(f"{text!r} is not a {what}; write it like {example} (units: {known})")
    value = float(match[1]) * units[match[2]]
    if value > MOST:
        raise ValueError(f"{text!r} is too large for a {what}")
    return value


def parse_count(value: Any) -> int:
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


def parse_size(value: Any) -> int:
    """Return a size such as `6GB` or `512MiB` in bytes; a number without a unit is refused."""
    if not isinstance(value, str):
        raise ValueError(
            f"{value!r} is not a size: the unit is missing; write it like 6GB or 512MiB"
        )
    return round(_quantity(value, _SIZE, "size", "6GB or 512MiB"))


def parse_time(value: Any) -> float:
    """Return a time such as `30s`, `10min` or `2h` in seconds.

    A number without a unit is refused.
    """
    if not isinstance(value, str):
        raise ValueError(
            f"{value!r} is not a time: the unit is missing; write it like 30s, 10min or 2h"
        )
    return _quantity(value, _TIME, "time", "30s, 10min or 2h")


_ROUNDED = 0.9995
"""Of a unit, from which on three digits round up to all of it: 999_999 is `1 M`, not `1e+03 k`."""


def format_size(size: float) -> str:
    """Return bytes as people read them, in powers of ten: 1_234_567 -> `1.23 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= _ROUNDED * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


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


def format_rate(per_second: float) -> str:
    """Return a rate in full down to units, or with three digits below 100: 1174.3 -> `1,174`."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


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
        return f"{value}"
    if abs(value) >= 1e5:
        return format_count(value)
    return f"{value:,.5g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2g}"


def format_time(seconds: float) -> str:
    """Return seconds as people read them: 83 -> `1 min 23 s`."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


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
