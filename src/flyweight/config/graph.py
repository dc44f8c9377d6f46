"""The stages of a recipe as a graph: the order of work, and what is left without a stage."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flyweight.config.messages import nearest
from flyweight.config.schema import Recipe, stage_class
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
        source = stages.pop(name).get("input")
        gone = (name, *beside.get(name, ()))
        for other, stage in stages.items():
            _replace(name, source, other, stage)
            _unlist(gone, stage)
            _move_tie(name, source if source in stages else None, other, stage)
        report = raw.get("report") or {}
        if "compare" in report:
            report["compare"] = [other for other in report["compare"] if other not in gone]
    if not stages:
        raise RequestError("--without: no stage is left to run")
    return raw


def _replace(name: str, source: str | None, other: str, stage: dict[str, Any]) -> None:
    """Let a raw stage refer to `source` where it referred to the stage `name`, which goes."""
    config = stage_class(stage.get("stage"))
    for field in config.references if config else ():
        if stage.get(field) != name:
            continue
        if source is None or field not in TAKES_THE_INPUT:
            raise RequestError(
                f"--without {name}: stages.{other}.{field} needs it, and {name} has no "
                f"input that could take its place;"
                f" leave {other} out as well: --without {other}"
            )
        stage[field] = source


def _unlist(gone: Sequence[str], stage: dict[str, Any]) -> None:
    """Take stages that go out of a raw stage's lists."""
    config = stage_class(stage.get("stage"))
    for field in config.references if config else ():
        value = stage.get(field)
        if isinstance(value, list | tuple):
            stage[field] = [reference for reference in value if reference not in gone]


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
