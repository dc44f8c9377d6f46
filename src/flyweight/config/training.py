"""How a model is trained: optimizers, schedule, limits, objectives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, model_validator

from flyweight.config.base import (
    Fraction,
    LearningRate,
    PositiveInt,
    Probability,
    Rate,
    Strict,
    choice,
)
from flyweight.config.units import Count, Seconds, Steps, Tokens


class AdamW(Strict):
    """AdamW (Loshchilov and Hutter 2019), fused where torch can; decay acts on matrices only."""

    kind: Literal["adamw"] = "adamw"
    lr: LearningRate = 3e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.95
    eps: Rate = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Muon(Strict):
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for everything else."""

    kind: Literal["muon"] = "muon"
    lr: LearningRate = 0.02
    momentum: Probability = 0.95
    iterations: PositiveInt = 5
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    rest: AdamW = AdamW()


Optimizer = Annotated[Annotated[AdamW | Muon, Discriminator("kind")], choice("adamw")]


class Schedule(Strict):
    """Learning-rate factor by the fraction of the limit that is done.

    It rises linearly during the warm-up, stays flat, then falls to `final` in the tail.
    """

    warmup: Fraction = 0.02
    tail: Literal["cosine", "linear", "none"] = "cosine"
    tail_from: Fraction | None = None
    final: Fraction = 0.0


class SameAs(Strict):
    """A limit taken from another stage: the tokens, FLOPs or seconds that it spent.

    `total_*` includes its teachers. `same_as` is a stage's only limit: it replaces those of the
    recipe's defaults.
    """

    stage: str
    of: Literal["tokens", "flops", "seconds", "total_flops", "total_seconds"]


class Train(Strict):
    """How long, how fast and how exactly to train. Whichever limit comes first ends the run.

    The schedule follows it.
    """

    steps: Steps | None = None
    tokens: Tokens | None = None
    flops: Annotated[Count, Field(gt=0)] | None = None
    time: Annotated[Seconds, Field(gt=0)] | None = None
    same_as: SameAs | None = None
    batch: PositiveInt = 16
    accumulate: PositiveInt = 1
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Schedule()
    clip: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validations: Annotated[int, Field(ge=0, lt=2**31)] = 8
    validation_tokens: Tokens = 65_536
    keep: Literal["best", "last"] = "best"
    checkpoint: Annotated[Seconds, Field(gt=0)] = 15.0
    trackers: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()

    @model_validator(mode="after")
    def _whole_pieces(self) -> Train:
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} pieces do not divide batch {self.batch}: rows "
                f"would be left out"
            )
        return self


class NextToken(Strict):
    """Cross-entropy of the next token."""

    kind: Literal["next_token"] = "next_token"


class Distillation(Strict):
    """weight * T^2 * divergence(teacher, student at temperature T) + (1 - weight) * cross-entropy.

    `jsd` is the generalised Jensen-Shannon divergence with mixture weight `beta` on the teacher
    (Agarwal et al. 2024).
    """

    kind: Literal["distillation"] = "distillation"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    temperature: Rate = 1.0
    weight: Fraction = 0.5
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
