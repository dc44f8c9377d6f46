"""What a training does where memory runs out: smaller micro-batches, and advice at the end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flyweight.config import schema
from flyweight.core import accelerator, allocator
from flyweight.core.events import Events
from flyweight.core.memory_errors import ERRORS, ran_out
from flyweight.errors import FlyweightError
from flyweight.store.budget import Meter
from flyweight.training.checkpoint import Progress
from flyweight.training.world import World

IN_THE_STEP = (
    "The optimizer could not move the weights, and smaller micro-batches would not help: set "
    "train.memory.states=int8 or a smaller model"
)


@dataclass(frozen=True)
class Pieces:
    """The micro-batches in which each process computes a step, halved where memory runs out.

    How many there are is `progress.accumulate`.
    """

    name: str
    config: schema.Train
    progress: Progress
    world: World
    device: str
    meter: Meter
    events: Events

    @property
    def share(self) -> int:
        """The rows of a step that each process reads."""
        return self.config.batch // self.world.size

    @property
    def rows(self) -> int:
        """The rows of a micro-batch."""
        return self.share // self.progress.accumulate

    def slices(self) -> list[slice]:
        """Return the rows of each micro-batch, numbered within the process's share."""
        return [slice(first, first + self.rows) for first in range(0, self.share, self.rows)]

    def fitted(self, work: Callable[[], float]) -> float:
        """Return what `work` returns; where memory runs out, halve and do it again.

        `work` moves no weights, so that it can be repeated. All processes halve together. Raises
        FlyweightError where a micro-batch cannot be halved.
        """
        while True:
            result = None
            try:
                result = work()
            except ERRORS as error:
                if not ran_out(error):
                    raise
                if not self.can_halve():
                    to_do = advice(self.config, self.progress.accumulate, self.share)
                    raise refusal(self.name, to_do) from error
            failed = int(result is None)
            if self.world.size > 1:
                failed = self.world.sum(failed)
            if result is not None and not failed:
                return result
            self.halve("memory ran out")

    def can_halve(self) -> bool:
        """Return whether a step may be computed in smaller pieces."""
        if self.config.on_oom == "stop" or self.config.memory.step == "backward":
            return False
        return finer(self.progress.accumulate, self.share) is not None

    def halve(self, why: str) -> None:
        """Let every step from this one on be computed in more and smaller pieces.

        Call it where the error is no longer handled: its frames hold what they had made.
        """
        pieces = finer(self.progress.accumulate, self.share)
        assert pieces is not None
        self.progress.accumulate = pieces
        self.meter.note()
        _release(self.device)
        self.meter.lower_mark()
        self.events.emit(
            "halved",
            name=self.name,
            why=why,
            step=self.progress.step + 1,
            accumulate=pieces,
            rows=self.rows,
        )


def finer(accumulate: int, rows: int) -> int | None:
    """Return in how many equal pieces to read `rows` rows next: twice as many or a few more.

    None where each has a single row already.
    """
    return next((n for n in range(2 * accumulate, rows + 1) if rows % n == 0), None)


def _release(device: str) -> None:
    """Give back what nobody holds any more, and from now on whatever is let go.

    Files are mapped into memory as well, which the C library's free blocks are of no use for.
    """
    gc.collect()
    allocator.give_back_at_once()
    allocator.give_back_now()
    accelerator.give_back(device)


def advice(config: schema.Train, accumulate: int, rows: int) -> str:
    """Return what to do where a step of `rows` rows in `accumulate` pieces does not fit."""
    smaller = "a smaller data.context or model"
    if config.memory.recompute != "blocks":
        smaller = f"train.memory.recompute=blocks, {smaller}"
    pieces = finer(accumulate, rows)
    if pieces is None:
        return f"A micro-batch of one row does not fit: choose {smaller}"
    if config.memory.step == "backward":
        return (
            "A step that moves weights in its backward pass cannot be repeated in smaller pieces: "
            f"set train.memory.step=after, or choose {smaller}"
        )
    return (
        f"Compute the same update in smaller pieces with train.accumulate={pieces}, or choose "
        f"{smaller}"
    )


@contextmanager
def advised(name: str, what_to_do: str) -> Iterator[None]:
    """Turn running out of memory into advice."""
    try:
        yield
    except ERRORS as error:
        if not ran_out(error):
            raise
        raise refusal(name, what_to_do) from error


def refusal(name: str, what_to_do: str) -> FlyweightError:
    """Return the error that ends a training for want of memory."""
    return FlyweightError(f"{name}: out of memory. {what_to_do}. What was done is kept")
