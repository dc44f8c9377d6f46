"""The memory of a training as it was planned and as it was used."""

from __future__ import annotations

from typing import Literal

from flyweight.config.units import format_signed
from flyweight.records.sealed import Record


class TrainingMemory(Record):
    """Bytes over the interpreter with its imports: planned before, used in the run.

    `method` is how the plan found its number. `held`: freed memory went back to the system at once,
    as it does with a budget of memory. `used` is None where nobody looked. The plan is for
    `asked_pieces` a step; `pieces` were computed at the end, more where memory ran out.
    """

    planned: int
    used: int | None
    method: Literal["formula", "dry-run"]
    held: bool
    asked_pieces: int = 1
    pieces: int | None = None

    @property
    def halved(self) -> bool:
        """Whether smaller micro-batches ran than were planned."""
        return self.pieces not in (None, self.asked_pieces)

    @property
    def error(self) -> float | None:
        """How far the plan is from what was used, as a share of that; below 0 it was too low.

        None where nobody looked, and where another training ran than was planned: what was used
        has the moment at which memory ran out in it.
        """
        return None if self.halved else planning_error(self.planned, self.used)


def planning_error(planned: int, used: int | None) -> float | None:
    """Return how far a plan is from what was used, as a share of that."""
    return planned / used - 1 if used else None


def format_error(error: float) -> str:
    """Return a plan's error in percent with its sign: `+3.4 %`."""
    return f"{format_signed(100 * error, 1)} %"
