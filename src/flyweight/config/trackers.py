"""Programs beside a run that are told its curves, its table and its numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

TrackerName = Literal["wandb", "trackio", "tensorboard"]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _once(names: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
    return tuple(dict.fromkeys(names))


Trackers = Annotated[tuple[TrackerName, ...], BeforeValidator(_listed), AfterValidator(_once)]
"""Names of trackers, each once; one name may stand for a list of one."""
