"""Stand-ins for what a training reads: random weights, random tokens.

Memory depends on shapes alone, so that neither a text nor an earlier stage's model is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from flyweight.config import schema
from flyweight.data.batch import Batch, rank_rows
from flyweight.data.corpus import Split
from flyweight.data.shards import Tokens
from flyweight.evaluation import likelihood
from flyweight.model.build import Model, build
from flyweight.model.rounding import round_in_training
from flyweight.spec.adapters import trained_tensors
from flyweight.training.objectives import DistillationObjective, NextTokenObjective, Objective
from flyweight.training.planned_training import PlannedTraining


def new_model(planned: PlannedTraining, seed: int = 0) -> Model:
    """Return the model that trains, with random weights; only what trains has gradients."""
    model = build(planned.model, seed)
    trained = trained_tensors(planned.model, planned.trains)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and trained(name))
    round_in_training(model, planned.model, planned.round, planned.round_layers)
    return model


def new_teacher(planned: PlannedTraining, seed: int = 0) -> Model | None:
    """Return the teacher with random weights, or None where there is none."""
    if planned.teacher is None:
        return None
    return build(planned.teacher, seed).eval().requires_grad_(False)


def new_objective(planned: PlannedTraining, teacher: Model | None) -> Objective:
    """Return what is minimised."""
    if teacher is None:
        return NextTokenObjective(schema.NextToken())
    return DistillationObjective(planned.objective or schema.Distillation(), teacher)


@dataclass(frozen=True)
class RandomTokens:
    """Rows of random tokens, each row one document."""

    planned: PlannedTraining
    seed: int = 0

    @property
    def context(self) -> int:
        """The number of inputs in each row."""
        return self.planned.context

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return the share of a step that process `rank` of `world` reads, or some of its rows."""
        own = rank_rows(self.planned.train.batch, rank, world)
        size = len(range(own.start, own.stop)[rows])
        drawn = torch.Generator().manual_seed(self.seed + step)
        vocab = self.planned.model.vocab_size or 1
        ids = torch.randint(vocab, (size, self.context + 1), generator=drawn)  # (B, T + 1)
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        documents = torch.zeros_like(inputs) if self.planned.isolated else None
        noisy = inputs.clone() if self.planned.train.input_noise else None
        return Batch(inputs, targets, inputs.numel(), documents=documents, noisy=noisy)


@dataclass(frozen=True)
class Validation:
    """The validation of a model on random tokens: one batch of windows, or less."""

    model: Model
    planned: PlannedTraining
    device: str

    def __call__(self, tokens: int, rows: int) -> float:
        """Return the mean NLL in nats per token on so many tokens, of so many rows at most."""
        planned = self.planned
        count = min(tokens, rows * planned.context)
        vocab = planned.model.vocab_size or 1
        drawn = np.random.default_rng(0).integers(vocab, size=count + 1, dtype=np.uint32)
        text = Split("validation", Tokens([drawn]), np.array([0]), bytes=0, words=0, unknown=0)
        return likelihood.quick(
            self.model,
            text,
            window=planned.context,
            tokens=count,
            batch=rows,
            device=self.device,
            precision=planned.precision,
            isolated=planned.isolated,
        )
