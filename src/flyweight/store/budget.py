"""The budget of a run: what has been spent, and the limit that holds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from flyweight.config.schema import Budget
from flyweight.config.units import format_count, format_size, format_time
from flyweight.core.machine import resident_bytes
from flyweight.errors import FlyweightError

LEAST_SHARE = 0.5
"""Part of its share of the time that a training has, however late it begins."""


class BudgetSpent(FlyweightError):
    """A limit was reached: what was finished is kept, and the message says how to go on from there."""


@dataclass
class Meter:
    """Counts what one recipe spends against its budget.

    `seconds_before` and `flops` start with what reused artifacts cost when they were made, so that
    a resumed run is held to the same limit as one that was never interrupted. `shared` tells that
    training stages were given what `limits.time` leaves them: another limit is another training
    then. Memory is counted over what the interpreter held when the meter started.

    `after` are the seconds that measuring will take when training is over; `training_ends` is when
    the training in progress has to end for that and for the trainings that follow, in seconds of
    this meter.
    """

    limits: Budget
    flops: float = 0.0
    seconds_before: float = 0.0
    shared: bool = False
    after: float = 0.0
    training_ends: float = math.inf
    late: bool = False
    peak_bytes: int = 0
    baseline_bytes: int = field(default_factory=resident_bytes)
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return the seconds spent so far."""
        return self.seconds_before + time.monotonic() - self.started

    def note(self, accelerator_bytes: int | None = None) -> int:
        """Note the memory that is in use and return it.

        `accelerator_bytes` replaces the process's memory on a GPU.
        """
        used = (
            accelerator_bytes
            if accelerator_bytes is not None
            else max(0, resident_bytes() - self.baseline_bytes)
        )
        self.peak_bytes = max(self.peak_bytes, used)
        return used

    def observe(
        self,
        where: str,
        flops: float = 0.0,
        accelerator_bytes: int | None = None,
        ends_itself: bool = False,
    ) -> None:
        """Note what is being used at `where`.

        Raises BudgetSpent when a limit with `over: stop` is passed.

        `flops` are those of the stage in progress so far. A training that `ends_itself` by its own
        clock is not held to the limit of time here.
        """
        used = self.note(accelerator_bytes)
        if self.limits.over != "stop":
            return
        limits = self.limits
        if limits.memory is not None and used > limits.memory:
            self._stop("memory", format_size(limits.memory), format_size(used), where)
        if limits.flops is not None and self.flops + flops > limits.flops:
            self._stop("flops", format_count(limits.flops), format_count(self.flops + flops), where)
        if limits.time is not None and not ends_itself and self.seconds() > limits.time:
            self._stop("time", format_time(limits.time), format_time(self.seconds()), where)

    def training_left(self, share: float) -> float:
        """Return the seconds that a training with this `share` of the time has from now on.

        They are fewer than its share where what came before took longer than planned, but never
        under half of it.
        """
        return min(share, max(LEAST_SHARE * share, self.training_ends - self.seconds()))

    def late_now(self) -> bool:
        """Return True once: when the limit of time is first seen to be passed by what is not training."""
        limit = self.limits.time
        if self.late or limit is None or self.seconds() <= limit:
            return False
        self.late = True
        return True

    def _stop(self, name: str, limit: str, used: str, where: str) -> None:
        on = f"a larger budget.{name} and the same command go on from here"
        if name == "time" and self.shared:
            on = (
                "budget.over=warn and the same command go on from here. A larger budget.time is "
                "shared out anew, so that the"
                " training stages without a limit of their own begin again"
            )
        raise BudgetSpent(
            f"budget.{name}: {limit} is spent ({used}) in {where}. What was done is kept: {on}"
        )
