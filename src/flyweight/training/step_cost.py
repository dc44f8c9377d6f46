"""What a step costs, and how many steps a number of FLOPs buys, where the cost changes when a loop is switched on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flyweight.config import schema
from flyweight.spec import flops as cost


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one optimizer step: `before` until the fraction `switch` of the limit is done, `after` from then on."""

    before: int
    after: int
    switch: float = 0.0

    @classmethod
    def constant(cls, flops: int) -> StepFlops:
        """Return a step that always costs the same."""
        return cls(flops, flops)

    @classmethod
    def of(
        cls,
        model: schema.Architecture,
        train: schema.Train,
        context: int,
        teacher: int = 0,
        fresh: bool = True,
    ) -> StepFlops:
        """Return the FLOPs of a step with `train`'s batch and optimizer, `teacher` FLOPs a window included.

        A model that goes on from finished weights (not `fresh`) has its loop on all the time.
        """
        same = train.batch * teacher + cost.optimizer_flops(model, train.optimizer)
        after = train.batch * cost.training_flops(model, context) + same
        sharing = model.sharing if fresh and isinstance(model, schema.ModelConfig) else None
        if not (isinstance(sharing, schema.Span) and sharing.loop_from):
            return cls.constant(after)
        before = train.batch * cost.training_flops(model, context, looped=False) + same
        return cls(before, after, sharing.loop_from)

    def looped(self, done: float) -> bool:
        """Return whether the loop is on in a step that begins when the fraction `done` of the limit lies behind."""
        return done >= self.switch

    def at(self, done: float) -> int:
        """Return the FLOPs of a step that begins when the fraction `done` of the limit lies behind."""
        return self.after if self.looped(done) else self.before

    @property
    def mean(self) -> float:
        """FLOPs of a step on average over a long run."""
        return self.switch * self.before + (1 - self.switch) * self.after

    def total(self, steps: int) -> int:
        """Return the FLOPs of a run that is limited by this number of steps."""
        first = min(steps, max(0, math.floor(self.switch * steps) - 1))
        while first < steps and not self.looped(first / steps):
            first += 1
        return first * self.before + (steps - first) * self.after

    def steps(self, flops: float) -> int:
        """Return how many steps a run takes that reaches `flops`, the last of which may go over it."""
        low, high = 0, math.ceil(flops / min(self.before, self.after))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.total(middle) >= flops else (middle + 1, high)
        return low
