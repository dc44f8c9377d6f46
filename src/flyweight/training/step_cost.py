"""What a step costs, and how many steps a number of FLOPs buys.

The cost changes once where a loop over a span of layers is switched on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flyweight.config import schema
from flyweight.spec import flops


@dataclass(frozen=True)
class StepCost:
    """FLOPs of one optimizer step, without the loop over a span of layers and with it.

    The loop is switched on when the fraction `switch_at` of the limit is done.
    """

    unlooped: int
    looped: int
    switch_at: float = 0.0

    @classmethod
    def constant(cls, cost: int) -> StepCost:
        """Return a step that always costs the same."""
        return cls(cost, cost)

    @classmethod
    def of(
        cls,
        model: schema.Architecture,
        train: schema.Train,
        context: int,
        teacher: int = 0,
        fresh: bool = True,
        trains: schema.TrainedPart = "full",
    ) -> StepCost:
        """Return the cost of a step with `train`'s batch and optimizer.

        `teacher` are the FLOPs that a teacher takes for each window. A model that begins with
        trained weights (not `fresh`) has its loop on all the time. `trains` is the part that is
        trained.
        """
        rest = train.batch * teacher + flops.optimizer_flops(model, train.optimizer, trains)
        looped = train.batch * flops.training_flops(model, context, trains=trains) + rest
        sharing = model.sharing if fresh and isinstance(model, schema.ModelConfig) else None
        if not (isinstance(sharing, schema.Span) and sharing.loop_from):
            return cls.constant(looped)
        unlooped = train.batch * flops.training_flops(model, context, looped=False) + rest
        return cls(unlooped, looped, sharing.loop_from)

    def is_looped(self, fraction: float) -> bool:
        """Return whether the loop is on in a step that begins at this fraction of the limit."""
        return fraction >= self.switch_at

    def at(self, fraction: float) -> int:
        """Return the FLOPs of a step that begins at this fraction of the limit."""
        return self.looped if self.is_looped(fraction) else self.unlooped

    @property
    def mean(self) -> float:
        """FLOPs of a step on average over a long run."""
        return self.switch_at * self.unlooped + (1 - self.switch_at) * self.looped

    def total(self, steps: int) -> int:
        """Return the FLOPs of a run that is limited by this number of steps."""
        first = min(steps, max(0, math.floor(self.switch_at * steps) - 1))
        while first < steps and not self.is_looped(first / steps):
            first += 1
        return first * self.unlooped + (steps - first) * self.looped

    def steps(self, limit: float) -> int:
        """Return the fewest steps whose total reaches `limit` FLOPs; the last may go over it."""
        low, high = 0, math.ceil(limit / min(self.unlooped, self.looped))
        while low < high:
            middle = (low + high) // 2
            if self.total(middle) >= limit:
                high = middle
            else:
                low = middle + 1
        return low
