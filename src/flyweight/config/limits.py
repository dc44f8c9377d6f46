"""What a compressed model has to hold to: bytes, a speed or a loss; and a share, such as `10%`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from flyweight.config.units import format_size, parse_size
from flyweight.errors import RequestError


@dataclass(frozen=True)
class Limit:
    """One limit: `bytes` at most, at least `speed` times as fast, or at most `loss` worse.

    `loss` is a share of the bits per byte that the model has on validation text.
    """

    kind: Literal["bytes", "speed", "loss"]
    value: float

    @classmethod
    def of(
        cls,
        bytes: str | int | None = None,
        speed: str | float | None = None,
        loss: str | float | None = None,
    ) -> Limit:
        """Return the one limit that is given.

        Raises RequestError for none, for several, and for one that no compression can mean.
        """
        given = {"bytes": bytes, "speed": speed, "loss": loss}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            found = "none is given" if not names else f"there are --{' and --'.join(names)}"
            raise RequestError(
                f"compress needs one limit, and {found}; write --bytes 40MB, --speed 2x or "
                f"--loss 1%"
            )
        if bytes is not None:
            return cls("bytes", _size(bytes))
        if speed is not None:
            return cls("speed", _factor(speed))
        assert loss is not None
        share = share_of(loss, "--loss")
        if share == 0:
            raise RequestError("--loss: every way loses something; write it like 1%")
        return cls("loss", share)

    def __str__(self) -> str:
        if self.kind == "bytes":
            return f"at most {format_size(self.value)}"
        if self.kind == "speed":
            return f"at least {self.value:g} times as fast"
        return f"at most {percent(self.value)} more bits per byte"


def percent(share: float) -> str:
    """Return a share in percent with three digits: 0.0123 -> `1.23 %`."""
    return f"{100 * share:.3g} %"


def _size(value: str | int) -> int:
    try:
        size = value if isinstance(value, int) and not isinstance(value, bool) else None
        size = parse_size(value) if size is None else size
    except ValueError as error:
        raise RequestError(f"--bytes: {error}") from error
    if size <= 0:
        raise RequestError("--bytes: a model takes more than nothing; write it like 40MB")
    return size


def _factor(value: str | float) -> float:
    text = str(value).strip().removesuffix("x")
    factor = _number(text)
    if factor is None:
        raise RequestError(f"--speed: {value!r} is not a factor; write it like 2x")
    if factor <= 1:
        raise RequestError(
            f"--speed {text}x: the model itself is 1x as fast; write more, such as 2x"
        )
    return factor


def share_of(value: str | float, option: str) -> float:
    """Return a share such as `10%` or 0.1, from 0 to 1.

    Raises RequestError for anything else, and for a bare number in text, which could mean both.
    """
    if isinstance(value, str) and value.strip() != "0":
        text = value.strip()
        number = _number(text.removesuffix("%"))
        share = None if number is None or not text.endswith("%") else number / 100
    else:
        share = _number(str(value))
    if share is None:
        raise RequestError(f"{option}: {value!r} is not a share; write it like 10%")
    if not 0 <= share <= 1:
        raise RequestError(f"{option} {value}: a share is from 0 to 100%")
    return share


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
