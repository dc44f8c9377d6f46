"""What changes while a training runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from flyweight.model.dropout import Dropout
from flyweight.training.averages import Averages
from flyweight.training.checkpoint import Progress
from flyweight.training.limits import Limits
from flyweight.training.memory_saving import BackwardSteps
from flyweight.training.out_of_memory import Pieces


@dataclass
class Clock:
    """The seconds of a training, those before it was resumed included.

    `began`, `saved` and `shown` are instants of `time.monotonic`.
    """

    seconds_before_resume: float = 0.0
    began: float = field(default_factory=time.monotonic)
    saved: float = 0.0
    shown: float = 0.0

    def __post_init__(self) -> None:
        self.saved = self.began
        self.shown = self.began

    def seconds(self) -> float:
        """Return the seconds that the whole training has taken so far."""
        return self.seconds_before_resume + self.seconds_since_resume()

    def seconds_since_resume(self) -> float:
        """Return the seconds since this process began to train."""
        return time.monotonic() - self.began


@dataclass
class TrainerState:
    """Counters, micro-batches, optimizers, gradient scaler, clock, and the plan of what is left.

    `averages` are those of the weights, where they are asked for.
    `backward_steps` is there where tensors move in the backward pass. `dropouts` are the model's,
    which are told the number of each micro-batch's first row. `first_step` is the step from
    which this process went on. `limits`, `validations` and `validation_tokens` are those of the
    config, or fewer where time is limited. `stream_ended`: the text that is read on the way has no
    more rows for a step. `rates` are the learning rates of the steps since the
    last one that was logged.
    """

    progress: Progress
    pieces: Pieces
    optimizers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    clock: Clock
    first_step: int
    limits: Limits
    validations: int
    validation_tokens: int
    averages: Averages | None = None
    backward_steps: BackwardSteps | None = None
    dropouts: Sequence[Dropout] = ()
    rates: list[float] = field(default_factory=list[float])
    stream_ended: bool = False

    @property
    def stored(self) -> Sequence[torch.optim.Optimizer]:
        """What a checkpoint holds beside the weights."""
        return self.optimizers if self.averages is None else [*self.optimizers, self.averages]

    def averaged(self) -> AbstractContextManager[None]:
        """Hold the averages in the weights' place for a while, where there are any."""
        return nullcontext() if self.averages is None else self.averages.swapped()

    def fraction_done(self) -> float:
        """Return the fraction of the nearest limit that is used up now, at most 1."""
        return self.limits.fraction_done(self.progress.step, self.clock.seconds())
