"""The budget of a run: what has been spent, and the limit that holds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from flyweight.config.schema import Budget
from flyweight.config.units import format_count, format_size, format_time
from flyweight.core.machine import resident_bytes
from flyweight.errors import FlyweightError


class BudgetSpent(FlyweightError):
    """A limit was reached: what was finished is kept, and the message says how to go on from there."""


@dataclass
class Meter:
    """Counts what one recipe spends against its budget.

    `seconds_before` and `flops` start with what reused artifacts cost when they were made, so that a resumed run is held to the
    same limit as one that was never interrupted. `shared` tells that training stages were given what `limits.time` leaves them:
    another limit is another training then. Memory is counted over what the interpreter held when the meter started.
    """

    limits: Budget
    flops: float = 0.0
    seconds_before: float = 0.0
    shared: bool = False
    peak_bytes: int = 0
    baseline_bytes: int = field(default_factory=resident_bytes)
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return the seconds spent so far."""
        return self.seconds_before + time.monotonic() - self.started

    def observe(self, where: str, flops: float = 0.0, accelerator_bytes: int | None = None) -> None:
        """Note what is being used at `where`; raise BudgetSpent when a limit with `over: stop` is passed.

        `flops` are those of the stage in progress so far; `accelerator_bytes` replaces the process's memory on a GPU.
        """
        used = accelerator_bytes if accelerator_bytes is not None else max(0, resident_bytes() - self.baseline_bytes)
        self.peak_bytes = max(self.peak_bytes, used)
        if self.limits.over != "stop":
            return
        limits = self.limits
        if limits.memory is not None and used > limits.memory:
            self._stop("memory", format_size(limits.memory), format_size(used), where)
        if limits.flops is not None and self.flops + flops > limits.flops:
            self._stop("flops", format_count(limits.flops), format_count(self.flops + flops), where)
        if limits.time is not None and self.seconds() > limits.time:
            self._stop("time", format_time(limits.time), format_time(self.seconds()), where)

    def left(self) -> float:
        """Return the seconds until the limit of time that stops a run; infinity where there is none."""
        limit = self.limits.time if self.limits.over == "stop" else None
        return math.inf if limit is None else max(0.0, limit - self.seconds())

    def _stop(self, name: str, limit: str, used: str, where: str) -> None:
        on = f"a larger budget.{name} and the same command go on from here"
        if name == "time" and self.shared:
            on = (
                "budget.over=warn and the same command go on from here. A larger budget.time is shared out anew, so that the"
                " training stages without a limit of their own begin again"
            )
        raise BudgetSpent(f"budget.{name}: {limit} is spent ({used}) in {where}. What was done is kept: {on}")
