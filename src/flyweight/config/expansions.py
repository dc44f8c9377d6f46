"""Words of a recipe that stand for stages: a distillation's controls and its teacher's record.

student: {stage: distill, ..., controls: [same_tokens, same_compute, shuffled]}
student: {stage: distill, ..., told: {k: 64, rest: bucket, store: fp16}}
student: {stage: distill, ..., across: tokenizers}, which has a record in any case
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from flyweight.config.messages import nearest
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import Data, Train
from flyweight.errors import RequestError

CONTROLS = {
    "same_tokens": "the same model trained alone on the same tokens",
    "same_compute": "the same model trained alone for the same total compute, the teacher's in it",
    "shuffled": "the same distillation from a teacher whose other tokens are shuffled",
}
"""What a distillation can be compared with, by its word in a recipe."""

TOLD = ("k", "rest", "store")
"""Fields of a record that a distillation asks for itself."""


def with_controls(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw recipe, its defaults laid out, with the stages that its words stand for.

    Raises RequestError for words that are not known and for names that other stages have.
    """
    stages, compare = dict[str, Any](), dict[str, list[str]]()
    for name, stage in raw["stages"].items():
        distills = isinstance(stage, dict) and stage.get("stage") == "distill"
        if not distills or not ({"controls", "told", "across"} & stage.keys()):
            stages[name] = stage
            continue
        plain = {key: value for key, value in stage.items() if key != "controls"}
        if plain.get("across") is not None and plain.get("told") is None:
            plain["told"] = {}
        record = {}
        if isinstance(plain.get("told"), dict):
            plain, record = _record(name, plain)
        controls = _controls(name, plain, stage.get("controls", ()))
        for other in [*record, *controls]:
            if other in raw["stages"]:
                raise RequestError(
                    f"stages.{name}: a stage {other} is there already, which it would make itself; "
                    f"rename that one, or leave the word out"
                )
        stages |= {**record, name: plain, **controls}
        compare[name] = list(controls)
    made = {**raw, "stages": stages}
    report = raw.get("report")
    asked = report.get("compare") if isinstance(report, dict) else None
    if not isinstance(report, dict) or not isinstance(asked, list):
        return made
    if compare and all(isinstance(name, str) for name in asked):
        compared = [each for name in asked for each in (name, *compare.get(name, ()))]
        made["report"] = {**report, "compare": list(dict.fromkeys(compared))}
    return made


def _controls(name: str, stage: dict[str, Any], words: Any) -> dict[str, dict[str, Any]]:
    """Return the control stages of a distillation by name."""
    where = f"stages.{name}.controls"
    if isinstance(words, str) or not isinstance(words, list | tuple):
        raise RequestError(f"{where}: name them in a list, such as [{', '.join(CONTROLS)}]")
    found = dict[str, dict[str, Any]]()
    for word in words:
        if not isinstance(word, str) or word not in CONTROLS:
            raise RequestError(
                f"{where}: {word!r} is not known{nearest(str(word), CONTROLS)}; there are "
                f"{', '.join(CONTROLS)}"
            )
        control = f"{name}-{word.replace('_', '-')}"
        if word == "shuffled":
            objective = {**_fields(stage, "objective"), "shuffled": True}
            found[control] = {**stage, "objective": objective}
            continue
        quantity = "tokens" if word == "same_tokens" else "total_flops"
        train = {key: value for key, value in _fields(stage, "train").items() if key not in LIMITS}
        tied = {**train, "same_as": {"stage": name, "of": quantity}}
        kept = {key: stage[key] for key in ("data", "model", "input", "round") if key in stage}
        found[control] = {"stage": "pretrain", **kept, "train": tied}
    return found


def _fields(stage: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return a copy of a part of a raw stage; anything else is refused later, by name."""
    value = stage.get(part)
    return dict(value) if isinstance(value, dict) else {}


def _record(name: str, stage: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a distillation that takes a record, and the stage that makes it, by name."""
    told, where = dict(stage["told"]), f"stages.{name}.told"
    if strange := next((key for key in told if key not in TOLD), None):
        raise RequestError(f"{where}.{strange}: is not known; there are {', '.join(TOLD)}")
    objective = _fields(stage, "objective")
    fields = {
        "k": told.get("k"),
        "store": told.get("store"),
        "across": stage.get("across"),
        "temperature": objective.get("temperature"),
        "data": stage.get("data"),
    }
    record = {
        "stage": "teach",
        "teacher": stage.get("teacher"),
        **{key: value for key, value in fields.items() if value is not None},
        "rows": _rows(stage, where),
    }
    if "rest" in told:
        objective["rest"] = told["rest"]
    named = f"{name}-told"
    taught = {**stage, "told": named}
    if objective:
        taught["objective"] = objective
    return taught, {named: record}


def _rows(stage: Mapping[str, Any], where: str) -> int:
    """Return how many rows a training by steps or tokens reads."""
    try:
        train = Train.model_validate(stage.get("train") or {})
        data = Data.model_validate(stage.get("data") or {})
    except ValidationError:
        return 1  # the stage itself is refused, with the reason
    steps = [train.steps] if train.steps else []
    if train.tokens:
        steps.append(math.ceil(train.tokens / (train.batch * data.context)))
    if not steps:
        raise RequestError(
            f"{where}: how many rows are read has to be known; give train.steps or train.tokens, "
            f"or a stage teach with rows"
        )
    return min(steps) * train.batch
