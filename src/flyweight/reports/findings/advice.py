"""The verdict of a report: which model to take, the same on pages, in terminals and on cards.

The best, the smallest close to it, and the fastest where speed is decided.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flyweight.config.units import format_bits, format_rate, format_size
from flyweight.records.metric import Metric
from flyweight.reports.findings.phrases import Kind, and_list, bits, floor_name, name
from flyweight.reports.models import ModelGroup, RankedModel
from flyweight.reports.ranking import AXES, CLOSE, Picks, StrongestFloor, picks, strongest_floor

BEST, SMALLEST, FASTEST = "best", f"smallest within {100 * CLOSE:.0f}\N{NO-BREAK SPACE}%", "fastest"
ALONE = "the only model"


@dataclass(frozen=True)
class Figure:
    """One figure of a choice with its unit, and its 95 % interval; both empty where unmeasured.

    `name` says what it is a figure of.
    """

    name: str
    text: str
    interval: str = ""

    @property
    def whole(self) -> str:
        """The figure with its interval in brackets: `1.855 bits/byte (1.841-1.869)`."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class Choice:
    """One model to take: what for, its figures, and the command that uses it.

    `key` is that of its row in the table.
    """

    key: str
    label: str
    roles: tuple[str, ...]
    figures: tuple[Figure, ...]
    command: str

    @property
    def line(self) -> str:
        """Its figures in one line: `436 kB, 1.855 bits/byte, 1,174 tokens/s`."""
        return ", ".join(figure.text for figure in self.figures if figure.text)

    @property
    def details(self) -> str:
        """Its figures with their intervals in one line."""
        return ", ".join(figure.whole for figure in self.figures if figure.text)


@dataclass(frozen=True)
class Advice:
    """A verdict. Names of models stand in backticks.

    `choices` is empty where no model may be taken.
    """

    kind: Kind
    title: str
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]


def advice(group: ModelGroup) -> Advice | None:
    """Return which model to take from a group, or why none; None where nothing was measured."""
    if not any(each.bits for each in group.models):
        return None
    picked = picks(group)
    if picked is None:
        return _none_rankable([each for each in group.models if each.bits])
    taken = picked.smallest or picked.best
    several = len(group.models) > 1
    start = f"Take {name(taken)}" if several else name(taken)
    choices = _choices(picked) if several else (choice(picked.best, ALONE),)
    floor = strongest_floor(group)
    kind: Kind = "warning" if floor and floor.verdict == "worse" else "note"
    notes = (*_floor(floor), *_ties(picked))
    return Advice(kind, f"{start}: {choice(taken).line}", choices, notes)


def choice(model: RankedModel, *roles: str) -> Choice:
    """Return a model as a choice for these roles."""
    disk, rate = model.model.disk_bytes, AXES["speed"].metric(model)
    figures = (
        Figure("size", "" if disk is None else format_size(disk)),
        Figure("quality", f"{bits(model)} bits/byte", _interval(model.bits, format_bits)),
        Figure(
            "speed",
            "" if rate is None else f"{format_rate(rate.value)} tokens/s",
            _interval(rate, format_rate),
        ),
    )
    return Choice(model.label, model.label, roles, figures, command(model))


def command(model: RankedModel) -> str:
    """Return the command that lets a model go on with the first prompt of its samples."""
    samples = model.model.samples
    prompt = samples[0].prompt if samples else "Once"
    reference = f"{model.summary.name}:{model.model.name}"
    return f"flyweight generate {shlex.quote(reference)} {shlex.quote(prompt)}"


def _interval(metric: Metric | None, form: Callable[[float], str]) -> str:
    if metric is None or metric.low == metric.high:
        return ""
    return f"{form(metric.low)}\N{EN DASH}{form(metric.high)}"


def _choices(picked: Picks) -> tuple[Choice, ...]:
    """Return the models to take, one line a model: whoever is best in two things has both roles."""
    roles: dict[str, tuple[RankedModel, list[str]]] = {}
    for role, model in (
        (BEST, picked.best),
        (SMALLEST, picked.smallest),
        (FASTEST, picked.fastest),
    ):
        if model is not None:
            roles.setdefault(model.label, (model, []))[1].append(role)
    return tuple(choice(model, *names) for model, names in roles.values())


def _ties(picked: Picks) -> list[str]:
    """Name the models that are as good as the best, or as fast as the fastest, by the intervals."""
    notes = []
    if picked.tied:
        names = and_list([name(each) for each in picked.tied])
        notes.append(f"Not significantly worse in quality than {name(picked.best)}: {names}.")
    if picked.fastest and picked.alike:
        names = and_list([name(each) for each in picked.alike])
        notes.append(f"Not significantly slower than {name(picked.fastest)}: {names}.")
    return notes


def _floor(floor: StrongestFloor | None) -> list[str]:
    """Say so where no model beats counting."""
    if floor is None or floor.verdict == "better":
        return []
    return [floor_note(floor, "model", "bits/byte")]


def floor_note(floor: StrongestFloor, thing: str, unit: str) -> str:
    """Say that nothing of a kind beats a floor decidedly, and what to do about it."""
    named = f"the {floor_name(floor.name)} floor ({format_bits(floor.value)} {unit})"
    if floor.verdict == "undecided":
        return f"Whether any {thing} here beats {named}, which only counts, is undecided."
    return (
        f"No {thing} here beats {named}, which only counts which tokens follow which."
        " Train longer, on more text, or a larger model."
    )


# --- nothing rankable ---


def _none_rankable(measured: Sequence[RankedModel]) -> Advice:
    """Say why no model may be taken, and what to do about it."""
    unlearned = [each for each in measured if each.standing in ("collapsed", "too short")]
    if len(unlearned) < len(measured):
        title = "Take none of these models: their checks fail."
        doing = "Their figures cannot be trusted; flyweight audit MODEL shows every check."
    elif any(each.bits and not math.isfinite(each.bits.value) for each in unlearned):
        title = "Take none of these models: training diverged."
        doing = "Train again with a lower train.lr."
    else:
        title = "No model here has learned enough yet: train longer."
        doing = "Raise train.steps, or budget.time, and run the same command again."
    notes = [
        f"{name(each)}{_steps(each)}: {and_list([f.text for f in each.faults])}."
        for each in measured
    ]
    return Advice("warning", title, (), (*notes, doing))


def _steps(model: RankedModel) -> str:
    training = model.training
    return (
        ""
        if training is None
        else f", {training.steps:,} training step{'s' * (training.steps != 1)}"
    )
