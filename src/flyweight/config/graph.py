"""The stages of a recipe as a graph: the order of work, and what is left without a stage."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flyweight.config.messages import nearest
from flyweight.config.schema import Recipe, stage_class
from flyweight.config.snapshots import SNAPSHOT
from flyweight.errors import RequestError


def is_external(reference: str) -> bool:
    """Return whether a reference is a MODEL elsewhere: a path, `RECIPE:STAGE` or `hf:...`."""
    return ":" in reference or "/" in reference or Path(reference).exists()


def order(recipe: Recipe) -> list[str]:
    """Return the stages' names so that each comes after what it refers to, otherwise as written."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name not in done:
            for reference in _inside(recipe, name):
                visit(reference)
            done.append(name)

    for name in recipe.stages:
        visit(name)
    return done


def cycle_faults(recipe: Recipe) -> list[str]:
    """Return the first circle of references, in words; nothing where there is none."""

    def walk(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            return [f"stages.{name}: refers to itself through {circle}"]
        for reference in _inside(recipe, name):
            if faults := walk(reference, (*path, name)):
                return faults
        return []

    for name in recipe.stages:
        if faults := walk(name, ()):
            return faults
    return []


def _inside(recipe: Recipe, name: str) -> list[str]:
    """Return the stages of the recipe that a stage refers to."""
    references = recipe.stages[name].dependencies().values()
    return [reference for reference in references if reference in recipe.stages]


# --- without some stages ---

TAKES_THE_INPUT = ("input", "teacher")
"""Fields that take the input of a stage that is left out in its place."""


def leave_out(
    raw: Mapping[str, Any], names: Sequence[str], beside: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    """Return a raw recipe without the named stages.

    `beside` are the stages that a stage's words stand for, which go with it.

    What consumed one, or was taught by it, takes its input instead, where it has one. Raises
    RequestError where it has none, and for a name that no stage has.
    """
    raw = copy.deepcopy(dict(raw))
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return raw
    for name in names:
        if name not in stages:
            raise RequestError(f"--without {name}: there is no such stage{nearest(name, stages)}")
    left = {name: stage for name, stage in stages.items() if name not in names}
    if not left:
        raise RequestError("--without: no stage is left to run")
    gone = {each for name in names for each in (name, *beside.get(name, ()))}
    for name in names:
        source = _stands_in(name, stages, names)
        for other, stage in left.items():
            _replace(name, source, other, stage)
            _move_tie(name, source if source in left else None, other, stage)
    for stage in left.values():
        _unlist(gone, stage)
    report = raw.get("report") or {}
    if "compare" in report:
        report["compare"] = _kept(report["compare"], gone)
    return {**raw, "stages": left}


def _stands_in(name: str, stages: Mapping[str, Any], gone: Sequence[str]) -> str | None:
    """Return the nearest input before a raw stage that stays; None without such a one."""
    source = stages[name].get("input")
    while isinstance(source, str) and source in gone:
        source = stages[source].get("input")
    return source if isinstance(source, str) else None


def _replace(name: str, source: str | None, other: str, stage: dict[str, Any]) -> None:
    """Let a raw stage refer to `source` where it referred to the stage `name`, which goes.

    Raises RequestError where nothing can take its place, and for its snapshots.
    """
    config = stage_class(stage.get("stage"))
    for field in config.references if config else ():
        reference = stage.get(field)
        if not isinstance(reference, str) or _trained(reference) != name:
            continue
        advice = f"leave {other} out as well: --without {other}"
        if reference != name:
            raise RequestError(
                f"--without {name}: stages.{other}.{field} needs its snapshot {reference}; {advice}"
            )
        if source is None or field not in TAKES_THE_INPUT:
            raise RequestError(
                f"--without {name}: stages.{other}.{field} needs it, and {name} has no "
                f"input that could take its place; {advice}"
            )
        stage[field] = source


def _trained(reference: str) -> str:
    """Return the name of the stage that a reference is to, or to a snapshot of which."""
    snapshot = re.fullmatch(SNAPSHOT, reference)
    return snapshot[1] if snapshot else reference


def _unlist(gone: Collection[str], stage: dict[str, Any]) -> None:
    """Take stages that go, and their snapshots, out of a raw stage's lists."""
    config = stage_class(stage.get("stage"))
    for field in config.references if config else ():
        value = stage.get(field)
        if isinstance(value, list | tuple):
            stage[field] = _kept(value, gone)


def _kept(references: Sequence[str], gone: Collection[str]) -> list[str]:
    """Return references to stages that stay."""
    return [each for each in references if each not in gone and _trained(each) not in gone]


def _move_tie(name: str, source: str | None, other: str, stage: dict[str, Any]) -> None:
    """Let `same_as` take its limit from the input of a stage that goes.

    That is where it means all that was spent up to there.
    """
    train = stage.get("train") or {}
    same_as = train.get("same_as") or {}
    if same_as.get("stage") != name:
        return
    if source is None or not str(same_as.get("of")).startswith("total_"):
        raise RequestError(
            f"--without {name}: stages.{other}.train.same_as takes its limit from it; "
            f"leave {other} out as well, or"
            f" give it a limit of its own: stages.{other}.train.same_as=null "
            f"stages.{other}.train.steps=..."
        )
    stage["train"] = {**train, "same_as": {**same_as, "stage": source}}
