"""What makes a training fit into a limit of memory, in the order in which it costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flyweight.config import schema
from flyweight.config.units import format_size
from flyweight.planning.memory import PlannedMemory

NAMES = {
    "train.accumulate": "smaller micro-batches, the same update",
    "train.memory.recompute": "blocks are computed again in the backward pass, the same update",
    "train.memory.states": "the optimizer's running means in fewer bits",
    "train.memory.step": "each tensor moves in the backward pass",
    "train.memory.weights": "weights in bfloat16, rounded at random",
    "data.context": "half as many tokens are read at once",
}
"""What each change does, in words."""


@dataclass(frozen=True)
class Change:
    """One change of a training: a field, what it was and becomes, and its effect.

    `saves` are bytes, counted in a dry run together with the changes before it; `slower` is the
    seconds of a step over those before it. Only what is `free` leaves quality as it is.
    """

    field: str
    before: str
    after: str
    saves: int
    slower: float
    free: bool

    def sentence(self) -> str:
        """Return the change as a word of the command line, with its effect."""
        time = "" if self.slower < 1.02 else f", steps take {self.slower:.2f} times as long"
        what = NAMES[self.field]
        return f"{self.field}={self.after} saves {format_size(self.saves)}{time} ({what})"

    def json(self) -> dict[str, Any]:
        """Return the change under INTERFACE's keys."""
        values = {"field": self.field, "from": self.before, "to": self.after}
        return {**values, "saves": self.saves, "slower": self.slower, "free": self.free}


@dataclass(frozen=True)
class Fitting:
    """How a stage fits a limit: the changes, the memory after them, and whether that fits.

    `stage` has the free changes in it. Those that cost quality are proposed and not made.
    """

    changes: tuple[Change, ...]
    proposed: tuple[Change, ...]
    stage: schema.TrainingStage
    memory: PlannedMemory
    fits: bool

    def words(self, name: str) -> list[str]:
        """Return the free changes of the stage `name` as words of the command line."""
        last = {change.field: change.after for change in self.changes}
        return [f"stages.{name}.{field}={after}" for field, after in last.items()]

    def sentences(self) -> list[str]:
        """Return every change with its effect, then what is left over the limit."""
        lines = [change.sentence() for change in self.changes]
        if not self.fits:
            lines.append(f"with all of these it needs {format_size(self.memory.total)}")
        lines += [f"at some cost: {change.sentence()}" for change in self.proposed]
        return lines


def fit(
    stage: schema.TrainingStage,
    limit: float,
    memory: Callable[[schema.TrainingStage], PlannedMemory],
    seconds: Callable[[schema.TrainingStage], float],
) -> Fitting:
    """Return what brings the memory of `stage` under `limit` bytes.

    `memory` and `seconds` of a step are asked for every step of the way. Each free change is made
    where it saves anything, until all fits; then what has a price is proposed.
    """
    held, took = memory(stage), seconds(stage)
    made: list[Change] = []
    for field, after in _free(stage, limit, memory):
        if held.total <= limit:
            break
        changed = _changed(stage, field, after)
        if changed is None or (needed := memory(changed)).total >= 0.99 * held.total:
            continue
        takes = seconds(changed)
        made.append(_change(field, stage, after, held, needed, takes / took, free=True))
        stage, held, took = changed, needed, takes
    fits = held.total <= limit
    proposed: list[Change] = []
    for field, after in () if fits else _priced(stage):
        changed = _changed(stage, field, after)
        if changed is None:
            continue
        needed = memory(changed)
        if needed.total < held.total:
            proposed.append(
                _change(field, stage, after, held, needed, seconds(changed) / took, free=False)
            )
    return Fitting(tuple(made), tuple(proposed), stage, held, fits)


def _free(
    stage: schema.TrainingStage,
    limit: float,
    memory: Callable[[schema.TrainingStage], PlannedMemory],
) -> Iterator[tuple[str, object]]:
    """Yield the changes that leave quality as it is, in order.

    Of micro-batches the largest that fit are taken, or the smallest where none do.
    """
    train = stage.train
    if train.memory.step != "backward":
        pieces = [count for count in range(1, train.batch + 1) if train.batch % count == 0]
        finer = [count for count in pieces if count > train.accumulate]
        if finer and (finest := _changed(stage, "train.accumulate", finer[-1])):
            fits = memory(finest).total <= limit
            yield from (("train.accumulate", count) for count in (finer if fits else finer[-1:]))
    yield "train.memory.recompute", "blocks"
    if train.memory.states == "fp32":
        yield "train.memory.states", "bf16"
    yield "train.memory.states", "int8"
    yield "train.memory.step", "backward"


def _priced(stage: schema.TrainingStage) -> Iterator[tuple[str, object]]:
    yield "train.memory.weights", "bf16"
    if stage.data.context >= 64:
        yield "data.context", stage.data.context // 2


def _changed(stage: schema.TrainingStage, field: str, value: object) -> schema.TrainingStage | None:
    """Return the stage with a field changed; None where that contradicts the rest of it."""
    raw = stage.model_dump(mode="json", exclude_unset=True)
    place = raw
    *path, last = field.split(".")
    for name in path:
        place = place.setdefault(name, {})
    if place.get(last) == value:
        return None
    place[last] = value
    try:
        return type(stage).model_validate(raw, context={"resolved": True})
    except ValidationError:
        return None


def _change(
    field: str,
    stage: schema.TrainingStage,
    after: object,
    held: PlannedMemory,
    needed: PlannedMemory,
    slower: float,
    *,
    free: bool,
) -> Change:
    before: Any = stage
    for name in field.split("."):
        before = getattr(before, name)
    return Change(field, str(before), str(after), held.total - needed.total, slower, free)
