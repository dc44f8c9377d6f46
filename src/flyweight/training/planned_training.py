"""A training by its configs alone: what a plan counts and a check measures."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from flyweight.config import schema
from flyweight.config.base import Strict
from flyweight.core.runtime import Precision


class PlannedTraining(Strict):
    """What decides the memory of a training, with resolved models and without any text.

    `model` is the one that trains, with its adapters; `trains` is the part of it that does.
    `isolated` documents see nothing of each other. `teacher` and `objective` are a distillation's.
    `round` is what the blocks' matrices are read as, but for those that `round_layers` names.
    """

    model: schema.Architecture
    train: schema.Train
    context: int
    precision: Precision = "fp32"
    teacher: schema.Architecture | None = None
    objective: schema.Distillation | None = None
    isolated: bool = False
    trains: schema.TrainedPart = "full"
    round: schema.LinearKind | None = None
    round_layers: dict[str, schema.LinearKind] = Field(default_factory=dict[str, schema.LinearKind])

    @property
    def key(self) -> str:
        """Text that two trainings share which take the same memory."""
        held = {
            "batch",
            "accumulate",
            "optimizer",
            "average",
            "input_noise",
            "memory",
            "clip",
            "validation_tokens",
        }
        train = self.train.model_dump_json(include=held)
        rest = self.model_dump_json(exclude={"train"})
        return f"{rest} {train} {self.train.validations > 0}"

    def with_few_pieces(self) -> PlannedTraining:
        """Return it with two micro-batches a step at most: more of them hold no more memory."""
        train = self.train
        pieces = min(2, train.accumulate)
        batch = pieces * (train.batch // train.accumulate)
        few = train.model_copy(update={"batch": batch, "accumulate": pieces})
        return self.model_copy(update={"train": few})

    @classmethod
    def read(cls, fields: Any) -> PlannedTraining:
        """Return the training of fields that `model_dump` wrote."""
        return cls.model_validate(fields, context={"resolved": True})
