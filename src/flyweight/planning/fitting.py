"""What makes a training fit into a limit of memory, in the order in which it costs least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flyweight.config import schema
from flyweight.config.overrides import put
from flyweight.config.units import format_size, size_word
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
    seconds of a step over those before it. Only what is `free` leaves quality as it is. `needs`
    are other fields, with their values, that have to be changed with it.
    """

    field: str
    before: str
    after: str
    saves: int
    slower: float
    free: bool
    needs: tuple[tuple[str, str], ...] = ()

    def words(self, before: str = "") -> str:
        """Return the change as words of the command line, with `before` in front of each field."""
        values = ((self.field, self.after), *self.needs)
        return " ".join(f"{before}{name}={value}" for name, value in values)

    def sentence(self) -> str:
        """Return the change as words of the command line, with its effect."""
        time = "" if self.slower < 1.02 else f", steps take {self.slower:.2f} times as long"
        what = NAMES[self.field]
        return f"{self.words()} saves {format_size(self.saves)}{time} ({what})"

    def json(self) -> dict[str, Any]:
        """Return the change under INTERFACE's keys."""
        values: dict[str, Any] = {"field": self.field, "from": self.before, "to": self.after}
        if self.needs:
            values["needs"] = dict(self.needs)
        return {**values, "saves": self.saves, "slower": self.slower, "free": self.free}


@dataclass(frozen=True)
class Fitting:
    """How a stage fits a limit: the changes, the memory after them, and whether that fits.

    `stage` and `memory` have the free changes in them. Those that cost quality are proposed and not
    made; `least` is the memory with all of them. `idle` says why others are not proposed.
    """

    changes: tuple[Change, ...]
    proposed: tuple[Change, ...]
    stage: schema.TrainingStage
    memory: PlannedMemory
    fits: bool
    least: PlannedMemory
    idle: tuple[str, ...] = ()

    def words(self, name: str) -> list[str]:
        """Return the free changes of the stage `name` as words of the command line."""
        return fitting_words({name: self}, {name})

    def sentences(self) -> list[str]:
        """Return every change with its effect, then what is left over the limit."""
        lines = [change.sentence() for change in self.changes]
        if not self.fits and self.changes:
            lines.append(f"with all of these it needs {format_size(self.memory.total)}")
        lines += [f"at some cost: {change.sentence()}" for change in self.proposed]
        if self.proposed:
            lines.append(f"with these as well it needs {format_size(self.least.total)}")
        return [*lines, *(f"not proposed: {why}" for why in self.idle)]

    def advice(self, name: str) -> str:
        """Return how the stage `name` fits, or the smallest limits that it can be held to."""
        least = format_size(self.memory.total)
        if self.fits:
            return f"{' '.join(self.words(name))} makes it {least}, at no cost in quality"
        lines = f"the least that leaves quality as it is takes {least}"
        nearest = f"the nearest limit that fits: budget.memory={size_word(self.memory.total)}"
        if self.proposed:
            words = " ".join(change.words(f"stages.{name}.") for change in self.proposed)
            lines += f", and at some cost ({words}) {format_size(self.least.total)}"
            if size_word(self.least.total) != size_word(self.memory.total):
                nearest += f", or {size_word(self.least.total)} at that cost"
        return f"{lines}; {nearest} (or a smaller model)"


def fitting_words(fittings: Mapping[str, Fitting], written: Collection[str]) -> list[str]:
    """Return the free changes of stages as words, each under the stage that stands in the recipe.

    A stage that does not stand there is named after the one that does: `student-same-tokens`.
    """
    found: dict[str, object] = {}
    for name in sorted(fittings, key=lambda name: name not in written):
        sources = [source for source in written if name == source or name.startswith(f"{source}-")]
        source = name if name in sources else max(sources, key=len)
        last = {change.field: change.after for change in fittings[name].changes}
        for field, after in last.items():
            found.setdefault(f"stages.{source}.{field}", after)
    return [f"{path}={after}" for path, after in found.items()]


def fit(
    stage: schema.TrainingStage,
    limit: float,
    memory: Callable[[schema.TrainingStage], PlannedMemory],
    seconds: Callable[[schema.TrainingStage], float],
) -> Fitting:
    """Return what brings the memory of `stage` under `limit` bytes.

    `memory` and `seconds` of a step are asked for every step of the way. Each free change is made
    where it saves anything, until all fits. Where all of them do not suffice, what has a price is
    proposed.
    """
    way = _Way(limit, memory, seconds, stage)
    way.cut()
    for field, after in _free(stage):
        if not way.fits:
            way.change(field, after, free=True)
    fits, tried, held = way.fits, way.stage, way.held
    free = len(way.changes)
    idle: list[str] = []
    for field, after, needs in () if fits else _priced(stage):
        if way.fits:
            break
        if why := way.change(field, after, free=False, needs=needs):
            idle.append(f"{field}={after}, which {why}")
    changes = tuple(way.changes)
    return Fitting(changes[:free], changes[free:], tried, held, fits, way.held, tuple(idle))


class _Way:
    """The way from a stage to one that fits: the changes so far, and what they leave."""

    def __init__(
        self,
        limit: float,
        memory: Callable[[schema.TrainingStage], PlannedMemory],
        seconds: Callable[[schema.TrainingStage], float],
        stage: schema.TrainingStage,
    ) -> None:
        self._limit, self._memory, self._seconds = limit, memory, seconds
        self.stage, self.held, self._took = stage, memory(stage), seconds(stage)
        self.changes: list[Change] = []

    @property
    def fits(self) -> bool:
        """Whether the stage as it is changed so far is within the limit."""
        return self.held.total <= self._limit

    def cut(self) -> None:
        """Cut the batch into as few micro-batches as fit, or into single rows."""
        train = self.stage.train
        if self.fits or train.memory.step == "backward":
            return
        counts = [n for n in range(train.accumulate + 1, train.batch + 1) if train.batch % n == 0]
        finest = _changed(self.stage, {"train.accumulate": counts[-1]}) if counts else None
        if finest is None:
            return
        first, last = 0, len(counts) - 1
        if self._memory(finest).total > self._limit:
            first = last  # none fits: the finest saves most
        while first < last:
            middle = (first + last) // 2
            cut = _changed(self.stage, {"train.accumulate": counts[middle]})
            if cut is not None and self._memory(cut).total <= self._limit:
                last = middle
            else:
                first = middle + 1
        self.change("train.accumulate", counts[first], free=True)

    def change(
        self,
        field: str,
        after: object,
        *,
        free: bool,
        needs: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """Make a change, unless it contradicts the rest of the stage or saves nothing.

        A free one has to save a hundredth. Returns why it was not made, empty where it was.
        """
        changed = _changed(self.stage, {field: after, **dict(needs)})
        if changed is None:
            return "is there already, or does not go with this training"
        needed = self._memory(changed)
        if needed.total >= (0.99 if free else 1.0) * self.held.total:
            return "would save nothing here"
        takes = self._seconds(changed)
        slower = takes / self._took
        saves = self.held.total - needed.total
        before = _value(self.stage, field)
        self.changes.append(Change(field, before, str(after), saves, slower, free, needs))
        self.stage, self.held, self._took = changed, needed, takes
        return ""


def _free(stage: schema.TrainingStage) -> Iterator[tuple[str, object]]:
    """Yield the changes behind micro-batches that leave quality as it is, in order."""
    yield "train.memory.recompute", "blocks"
    if stage.train.memory.states == "fp32":
        yield "train.memory.states", "bf16"
    yield "train.memory.states", "int8"
    yield "train.memory.step", "backward"


def _priced(
    stage: schema.TrainingStage,
) -> Iterator[tuple[str, object, tuple[tuple[str, str], ...]]]:
    """Yield the changes that cost quality, in order, each with the fields that it needs."""
    in_bfloat16 = stage.train.precision in ("auto", "bf16")
    yield "train.memory.weights", "bf16", () if in_bfloat16 else (("train.precision", "bf16"),)
    if stage.data.context >= 64:
        yield "data.context", stage.data.context // 2, ()


def _changed(
    stage: schema.TrainingStage, values: Mapping[str, object]
) -> schema.TrainingStage | None:
    """Return the stage with fields changed; None where that contradicts the rest of it.

    None too where the first of them has its value already.
    """
    raw = stage.model_dump(mode="json", exclude_unset=True)
    if _value(stage, next(iter(values))) == str(next(iter(values.values()))):
        return None
    for name, value in values.items():
        put(raw, name.split("."), value, name)
    try:
        return type(stage).model_validate(raw, context={"resolved": True})
    except ValidationError:
        return None


def _value(stage: schema.TrainingStage, field: str) -> str:
    """Return the value of a field as text."""
    value: Any = stage
    for name in field.split("."):
        value = getattr(value, name)
    return str(value)
