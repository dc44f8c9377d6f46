"""The budget of a run: what it has spent, and the limits that it is held to."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import cache

from flyweight.config.schema import Budget
from flyweight.config.units import format_count, format_size, format_time
from flyweight.core import accelerator, allocator, machine
from flyweight.errors import FlyweightError

LEAST_SHARE = 0.5
"""The part of its share of the time that a training gets, however late it begins."""


LIBRARIES = 130_000_000
"""Bytes that a process loads when it trains for the first time, on a CPU.

torch's optimizers (70 MB), kernels, the tokenizer.
"""


LESS_MEMORY = (
    "`flyweight plan RECIPE --memory SIZE` says what makes it fit, such as "
    "train.memory.recompute=blocks"
)
"""What to do where a training is past the limit of memory."""


class BudgetSpent(FlyweightError):
    """A limit was reached; the message says how to go on from the work that is kept."""


@cache
def _before_the_first() -> int:
    """Return the bytes that this process held when its first meter started."""
    return machine.resident_bytes()


def interpreter_bytes() -> int:
    """Return what this process holds beside what trainings take, in bytes.

    A process that trained before, such as a notebook's, holds their LIBRARIES already. Every
    training counts those as its own.
    """
    allocator.give_back_now()
    held = machine.resident_bytes()
    return min(held, max(_before_the_first(), held - LIBRARIES))


@dataclass
class Meter:
    """Counts what one recipe spends against its budget.

    `seconds_before`, `flops` and `peak_bytes` count what reused artifacts cost when they were made.
    A resumed run is then held to the same limits as an uninterrupted one. `shared` is true where
    training stages share the time that `limits.time` leaves them: another limit is another training
    then. Memory is counted over what the interpreter held when the meter started: `peak_bytes` is
    the most of the run, `stage_peak_bytes` that of the stage in progress. On a CPU it is the
    high-water mark that the system keeps, or what is seen from time to time where there is none;
    on a GPU what torch holds of it.

    `after` are the seconds of the measurements after the last training. `training_ends` is the
    second of this meter at which the training in progress has to end: it leaves time for the
    trainings that follow and for the measurements.
    """

    limits: Budget
    device: str = "cpu"
    flops: float = 0.0
    seconds_before: float = 0.0
    shared: bool = False
    after: float = 0.0
    training_ends: float = math.inf
    late: bool = False
    peak_bytes: int = 0
    baseline_bytes: int = field(default_factory=interpreter_bytes)
    stage_peak_bytes: int = 0
    _marked: bool = False
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return the seconds spent so far."""
        return self.seconds_before + time.monotonic() - self.started

    def begin_stage(self) -> None:
        """Forget the peak of the stage before."""
        self.stage_peak_bytes = 0
        self.lower_mark()

    def lower_mark(self) -> None:
        """Let the high-water mark begin at what is held now; the peaks noted stay."""
        self._marked = machine.reset_high_water()
        accelerator.reset_peak(self.device)

    def note(self) -> int:
        """Note the most memory in use since the mark was lowered, and return it."""
        used = accelerator.used_bytes(self.device)
        if used is None:
            held = machine.high_water_bytes() if self._marked else machine.resident_bytes()
            used = max(0, held - self.baseline_bytes)
        self.peak_bytes = max(self.peak_bytes, used)
        self.stage_peak_bytes = max(self.stage_peak_bytes, used)
        return used

    def note_earlier(self, used: int) -> None:
        """Note the peak of a training that was made, or begun, before this meter started."""
        self.peak_bytes = max(self.peak_bytes, used)

    def observe(
        self,
        where: str,
        flops: float = 0.0,
        ends_itself: bool = False,
    ) -> None:
        """Note what is used at `where`; raise BudgetSpent past a limit with `over: stop`.

        `flops` are those of the stage in progress so far. A training that `ends_itself` by its own
        clock is not held to the limit of time here.
        """
        used = self.note()
        if self.limits.over != "stop":
            return
        limits = self.limits
        if limits.memory is not None and used > limits.memory:
            self._stop("memory", format_size(limits.memory), format_size(used), where)
        if limits.flops is not None and self.flops + flops > limits.flops:
            self._stop("flops", format_count(limits.flops), format_count(self.flops + flops), where)
        if limits.time is not None and not ends_itself and self.seconds() > limits.time:
            self._stop("time", format_time(limits.time), format_time(self.seconds()), where)

    def hold_memory(self, where: str, advice: str) -> None:
        """Note what is used at `where`; raise BudgetSpent past the limit of memory.

        `advice` says what takes less there.
        """
        limit = self.limits.memory
        if limit is not None and self.past_memory():
            used = format_size(self.stage_peak_bytes)
            self._stop("memory", format_size(limit), used, where, advice)

    def passed_memory(self) -> bool:
        """Return whether the stage in progress took more than the limit of memory."""
        limit = self.limits.memory
        return limit is not None and self.stage_peak_bytes > limit

    def past_memory(self) -> bool:
        """Note what is used, and return whether it is more than the run may take."""
        limit = self.limits.memory
        used = self.note()
        return self.limits.over == "stop" and limit is not None and used > limit

    def training_left(self, share: float) -> float:
        """Return the seconds that a training with this `share` of the time has from now on.

        They are fewer than its share where earlier work took longer than planned, but never under
        half of it.
        """
        return min(share, max(LEAST_SHARE * share, self.training_ends - self.seconds()))

    def late_now(self) -> bool:
        """Return True once: when work other than training is first seen past the limit of time."""
        limit = self.limits.time
        if self.late or limit is None or self.seconds() <= limit:
            return False
        self.late = True
        return True

    def _stop(self, name: str, limit: str, used: str, where: str, advice: str = "") -> None:
        on = f"a larger budget.{name} and the same command go on from here"
        if name == "memory":
            on += "; " + (advice or LESS_MEMORY)
        if name == "time" and self.shared:
            on = (
                "budget.over=warn and the same command go on from here. A larger budget.time is "
                "shared out anew: the training stages without a limit of their own begin again"
            )
        raise BudgetSpent(
            f"budget.{name}: {limit} is spent ({used}) in {where}. Finished work is kept: {on}"
        )
