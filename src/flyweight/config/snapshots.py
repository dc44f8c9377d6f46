"""The stage that takes a model as it was on the way of its training."""

from __future__ import annotations

from typing import ClassVar, Literal

from flyweight.config.base import Between
from flyweight.config.stage import INHERITED, Origin, StageConfig

SNAPSHOT = r"(.+)@(0?\.[0-9]+)"
"""How a snapshot is named where a MODEL is: `teacher@0.5`."""


class Snapshot(StageConfig):
    """A model as it was at `at` of its training: a point that `train.snapshots` of `input` names.

    What it had cost is what the whole training had.
    """

    stage: Literal["snapshot"]
    input: str
    at: Between

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = INHERITED
    validated: ClassVar[bool] = True

    def role(self) -> str:
        """Return which model it was, and when."""
        return f"{self.input} at {self.at:g} of its training"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        at, step = origin.config["at"], origin.facts.get("step")
        return f"{origin.parent('input')} as it was at {at:g} of its training, after step {step:,}"
