"""What a training costs on this machine: what the stage `memory` writes, and summaries read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyweight.records.sealed import Record


class TrainingCost(Record):
    """Peak memory and seconds of the first steps of a training, in a fresh process.

    `peak_bytes` is the most that was held from loading the model on, less `baseline_bytes`, which
    the process held before. `memory` names the way in which it was read. `seconds_per_step` is the
    mean over `steps` steps, without validations and checkpoints.
    """

    peak_bytes: int
    baseline_bytes: int
    memory: str
    steps: int
    seconds_per_step: float
    threads: int

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> TrainingCost:
        """Return the cost that a `metrics.json` holds.

        Raises KeyError or ValueError where it does not hold one.
        """
        return cls(**{name: metrics[name] for name in cls.model_fields})
