"""Where a training ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flyweight.config import schema
from flyweight.errors import RequestError
from flyweight.training.step_cost import StepCost


@dataclass(frozen=True)
class Limits:
    """Where training ends: after `steps` or after `seconds`, whichever comes first.

    Limits of steps, tokens, epochs and FLOPs all come down to `steps`.
    """

    steps: int | None
    seconds: float | None

    @classmethod
    def of(
        cls,
        train: schema.Train,
        tokens_per_step: int,
        cost: StepCost,
        name: str,
        epoch: int | None = None,
    ) -> Limits:
        """Return the limits of a config; raise RequestError when it names none.

        `epoch` is the number of rows (windows, or rows of examples) that one epoch reads, of which
        a step reads `train.batch`. Where it is not known, epochs do not limit it.
        """
        counts = [
            train.steps,
            train.tokens and math.ceil(train.tokens / tokens_per_step),
            train.epochs and epoch and math.ceil(train.epochs * epoch / train.batch - 1e-9),
            train.flops and cost.steps(train.flops),
        ]
        steps = min((count for count in counts if count), default=None)
        if steps is None and train.time is None:
            raise RequestError(
                f"{name}.train: no limit; give steps, tokens, epochs, flops, time or same_as (or a "
                f"budget.time to share)"
            )
        return cls(steps, train.time)

    def fraction_done(self, step: int, seconds: float) -> float:
        """Return the fraction of the nearest limit that is used up, at most 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    def reason(self, step: int) -> str:
        """Return which kind of limit ended the run: `steps` or `time`."""
        return "steps" if self.steps and step >= self.steps else "time"
