"""Which model to take, first on every page and in every terminal: the best, the smallest close to it, the fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flyweight.config.units import format_rate, format_size
from flyweight.reports.findings.phrases import Kind, and_list, bits, floor_name, name
from flyweight.reports.models import Group, RankedModel
from flyweight.reports.ranking import AXES, CLOSE, Picks, StrongestFloor, picks, strongest_floor

BEST, SMALLEST, FASTEST = "best", f"smallest within {100 * CLOSE:.0f}\N{NO-BREAK SPACE}%", "fastest"


@dataclass(frozen=True)
class Choice:
    """One model to take: what for, and its figures as text.

    A figure that was not measured is empty.
    """

    ranked: RankedModel
    roles: tuple[str, ...]
    bits: str
    size: str
    speed: str

    @classmethod
    def of(cls, ranked: RankedModel, *roles: str) -> Choice:
        """Return an ranked as a choice for these roles."""
        disk, rate = ranked.model.disk_bytes, AXES["speed"].metric(ranked)
        return cls(
            ranked,
            roles,
            f"{bits(ranked)} bits/byte",
            "" if disk is None else format_size(disk),
            "" if rate is None else f"{format_rate(rate.value)} tokens/s",
        )

    @property
    def figures(self) -> str:
        """Its figures in one line: `436 kB, 1.855 bits/byte, 1,174 tokens/s`."""
        return ", ".join(figure for figure in (self.size, self.bits, self.speed) if figure)


@dataclass(frozen=True)
class Advice:
    """What to take from one group of models. Names of models stand in backticks.

    `choices` is empty where there is no choice: one rankable model, or one that is best in everything.
    """

    kind: Kind
    title: str
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]


def advice(group: Group) -> Advice | None:
    """Return which model to take from a group, or why none; None where nothing was measured."""
    if not any(each.bits for each in group.models):
        return None
    picked = picks(group)
    if picked is None:
        return _none_sound([each for each in group.models if each.bits])
    choices = _choices(picked)
    taken = Choice.of(picked.smallest or picked.best)
    start = f"Take {name(taken.ranked)}" if len(group.models) > 1 else name(taken.ranked)
    floor = strongest_floor(group)
    kind: Kind = "warning" if floor and floor.verdict == "worse" else "note"
    notes = [*_floor(floor), *_ties(picked)]
    if len(choices) == 1 and len(group.rankable) > 1:
        notes.insert(0, f"It is {and_list([f'the {role}' for role in choices[0].roles])}.")
    shown = choices if len(choices) > 1 else ()
    return Advice(kind, f"{start}: {taken.figures}", shown, tuple(notes))


def advise(groups: Sequence[Group]) -> list[Advice]:
    """Return the advice of every group of a report that has some."""
    return [found for group in groups if (found := advice(group)) is not None]


def _choices(picked: Picks) -> tuple[Choice, ...]:
    """Return the models to take, one line a model: whoever is best in two things has both roles."""
    roles: dict[str, tuple[RankedModel, list[str]]] = {}
    for role, ranked in (
        (BEST, picked.best),
        (SMALLEST, picked.smallest),
        (FASTEST, picked.fastest),
    ):
        if ranked is not None:
            roles.setdefault(ranked.label, (ranked, []))[1].append(role)
    return tuple(Choice.of(ranked, *held) for ranked, held in roles.values())


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
    named = f"the {floor_name(floor.name)} floor ({floor.bits:.3f} bits/byte)"
    if floor.verdict == "undecided":
        return [f"Whether any model here beats {named}, which only counts, is undecided."]
    return [
        f"No model here beats {named}, which only counts which tokens follow which."
        " Train longer, on more text, or a larger model."
    ]


# --- nothing rankable ---


def _none_sound(measured: Sequence[RankedModel]) -> Advice:
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


def _steps(ranked: RankedModel) -> str:
    training = ranked.training
    return (
        ""
        if training is None
        else f", {training.steps:,} training step{'s' * (training.steps != 1)}"
    )
