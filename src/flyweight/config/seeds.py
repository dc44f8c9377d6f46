"""The seeds of a study: a list, because a bare number has two readings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field


def _one(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(
            f"seeds are whole numbers, for example [0, 1, 2]; found {str(value).lower()}"
        )
    return value


def _several(value: object) -> object:
    """Refuse a bare number, which could be a seed or the number of seeds."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return value
    spelled = "[0, 1, 2]"
    if isinstance(value, int) and 0 < value <= 9:
        spelled = str(list(range(value)))
    raise ValueError(
        f"{value} may be one seed or a number of seeds; write [{value}] for that seed, {spelled} "
        f"for several"
    )


Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_one)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_several)]
