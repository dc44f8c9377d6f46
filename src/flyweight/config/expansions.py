"""What a recipe writes shortly: names for MODELs, a distillation's controls, several measurements.

sources: {gpt2: "hf:openai-community/gpt2"}
student: {stage: distill, ..., controls: [same_tokens, same_compute, shuffled]}
student: {stage: distill, ..., told: {k: 64, rest: bucket, store: fp16}}
student: {stage: distill, ..., across: tokenizers}, which has a record in any case
student: {stage: distill, teacher: [base, base@0.5], ...}, which has a stage snapshot
speed:   {stage: bench, input: [student, int8], precision: [fp32, bf16]}
student: {stage: pretrain, ..., seed: [0, 1, 2]}
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from flyweight.config.messages import nearest, shown
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import Data, Train, stage_class
from flyweight.config.snapshots import SNAPSHOT
from flyweight.errors import RequestError

CONTROLS = {
    "same_tokens": "the same model trained alone on the same tokens",
    "same_compute": "the same model trained alone for the same total compute, the teacher's in it",
    "shuffled": "the same distillation from a teacher whose other tokens are shuffled",
}
"""What a distillation can be compared with, by its word in a recipe."""

SHARED = ("data", "model", "input", "round", "round_layers", "seed")
"""What a control that is trained alone has in common with its distillation."""

CONTROLLED = {"controls", "told", "across"}
"""Words of a distillation that stand for stages."""

SOURCES = "sources"
TOLD = ("k", "rest", "store")
"""Fields of a record that a distillation asks for itself."""


def with_controls(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw recipe, its defaults laid out, with the stages that its words stand for.

    Raises RequestError for words that are not known and for names that other stages have.
    """
    stages, compare = dict[str, Any](), dict[str, list[str]]()
    for name, stage in raw["stages"].items():
        plain, record, controls = _written_out(name, stage)
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
    if any(compare.values()) and all(isinstance(name, str) for name in asked):
        compared = [each for name in asked for each in (name, *compare.get(name, ()))]
        made["report"] = {**report, "compare": list(dict.fromkeys(compared))}
    return made


def stand_for(raw: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the stages that each raw stage stands for beside itself.

    They are those of its words, such as controls, and those of its lists, such as seeds.
    """
    return {
        name: [*record, *controls, *(each for each in _grid(name, stage) if each != name)]
        for name, stage in raw["stages"].items()
        for _, record, controls in [_written_out(name, stage)]
    }


def _written_out(name: str, stage: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return a raw stage without its words, and what they stand for: its record, its controls."""
    distills = isinstance(stage, dict) and stage.get("stage") == "distill"
    if not distills or not (CONTROLLED & stage.keys()):
        return stage, {}, {}
    if isinstance(stage.get("seed"), list):
        raise RequestError(
            f"stages.{name}.seed: {' and '.join(sorted(CONTROLLED & stage.keys()))} stand for "
            f"stages of one distillation, and this lists several; give it one seed"
        )
    plain = {key: value for key, value in stage.items() if key != "controls"}
    if plain.get("across") is not None and plain.get("told") is None:
        plain["told"] = {}
    record = dict[str, Any]()
    if isinstance(plain.get("told"), dict):
        plain, record = _record(name, plain)
    return plain, record, _controls(name, plain, stage.get("controls", ()))


def _controls(name: str, stage: dict[str, Any], words: Any) -> dict[str, dict[str, Any]]:
    """Return the control stages of a distillation by name."""
    where = f"stages.{name}.controls"
    if isinstance(words, str) or not isinstance(words, list | tuple):
        raise RequestError(f"{where}: name them in a list, such as [{', '.join(CONTROLS)}]")
    found, left_out = dict[str, dict[str, Any]](), {*LIMITS, "snapshots"}
    for word in words:
        if not isinstance(word, str) or word not in CONTROLS:
            raise RequestError(f"{where}: {word!r} is not known{nearest(str(word), CONTROLS)}")
        if words.count(word) > 1:
            raise RequestError(f"{where}: {word} is listed twice")
        control = f"{name}-{word.replace('_', '-')}"
        if word == "shuffled":
            objective = {**_fields(stage, "objective"), "shuffled": True}
            found[control] = {**stage, "objective": objective}
            continue
        quantity = "tokens" if word == "same_tokens" else "total_flops"
        train = {
            key: value for key, value in _fields(stage, "train").items() if key not in left_out
        }
        tied = {**train, "same_as": {"stage": name, "of": quantity}}
        kept = {key: stage[key] for key in SHARED if key in stage}
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
        raise RequestError(f"{where}.{strange}: unknown name{nearest(str(strange), TOLD)}")
    objective = _fields(stage, "objective")
    if "rest" in told and objective.get("rest", told["rest"]) != told["rest"]:
        raise RequestError(
            f"{where}.rest: is {shown(told['rest'])}, and objective.rest is "
            f"{shown(objective['rest'])}; leave one of them out"
        )
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


# --- names for MODELs ---


def with_sources(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw recipe whose stages name the MODELs that `sources` has names for.

    Raises RequestError for names that are not of text, or that a stage has.
    """
    recipe = dict(raw)
    sources = recipe.pop(SOURCES, None)
    if sources is None:
        return recipe
    texts = isinstance(sources, dict) and all(
        isinstance(part, str) for pair in sources.items() for part in pair
    )
    if not texts:
        raise RequestError(f"{SOURCES}: holds {shown(sources)}; give names to MODELs")
    stages = recipe.get("stages")
    if not isinstance(stages, dict):
        return recipe
    if twice := sorted(sources.keys() & stages.keys()):
        raise RequestError(f"{SOURCES}.{twice[0]}: a stage is called so too; rename one of them")
    named = {name: _named(stage, sources) for name, stage in stages.items()}
    return {**recipe, "stages": named}


def _named(stage: Any, sources: Mapping[str, str]) -> object:
    config = stage_class(stage.get("stage")) if isinstance(stage, dict) else None
    if config is None:
        return stage
    named = dict(stage)
    for field in config.references:
        value = stage.get(field)
        if isinstance(value, str):
            named[field] = _meant(value, sources)
        elif isinstance(value, list):
            named[field] = [
                _meant(each, sources) if isinstance(each, str) else each for each in value
            ]
    return named


def _meant(reference: str, sources: Mapping[str, str]) -> str:
    """Return what a name in a recipe stands for, or a snapshot of it; the name itself otherwise."""
    snapshot = re.fullmatch(SNAPSHOT, reference)
    if snapshot and snapshot[1] in sources:
        return f"{sources[snapshot[1]]}@{snapshot[2]}"
    return sources.get(reference, reference)


def taken_sources(raw: Mapping[str, Any]) -> set[str]:
    """Return the names of `sources` that stages of a raw recipe refer to."""
    sources, stages = raw.get(SOURCES), raw.get("stages")
    if not isinstance(sources, dict) or not isinstance(stages, dict):
        return set()
    references = {each for each in _references(stages) if isinstance(each, str)}
    names = {name for name in sources if isinstance(name, str)}
    return {name for name in names if any(_meant(each, {name: ""}) != each for each in references)}


# --- models as they were on the way of their training ---


def with_snapshots(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw recipe with a stage `snapshot` for each `NAME@0.5` that its stages refer to.

    Raises RequestError for names that other stages have.
    """
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return dict(raw)
    report = raw.get("report")
    compared = report.get("compare") if isinstance(report, dict) else None
    asked = [*_references(stages), *(compared if isinstance(compared, list) else ())]
    names, made = dict[str, str](), dict[str, Any]()
    for reference in asked:
        match = re.fullmatch(SNAPSHOT, reference) if isinstance(reference, str) else None
        if match is None or match[1] not in stages:
            continue
        percent = f"{100 * float(match[2]):g}".replace(".", "-")
        name = f"{match[1]}-at-{percent}"
        if name in stages:
            raise RequestError(
                f"stages: a stage {name} is there already, which {reference} would make; rename it"
            )
        names[reference] = name
        made[name] = {"stage": "snapshot", "input": match[1], "at": float(match[2])}
    if not names:
        return dict(raw)
    recipe = {**raw, "stages": {name: _named(stage, names) for name, stage in stages.items()}}
    recipe["stages"] |= made
    if isinstance(report, dict) and isinstance(compared, list):
        named = [names.get(name, name) if isinstance(name, str) else name for name in compared]
        recipe["report"] = {**report, "compare": named}
    return recipe


def _references(stages: Mapping[str, Any]) -> Iterator[object]:
    """Yield what raw stages refer to."""
    for stage in stages.values():
        config = stage_class(stage.get("stage")) if isinstance(stage, dict) else None
        for field in config.references if config else ():
            value = stage.get(field)
            yield from value if isinstance(value, list) else (value,)


# --- a measurement of several models, or in several ways ---


def with_grids(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw recipe with one stage for each combination of what a measurement lists.

    Raises RequestError for an empty list, and for names that other stages have.
    """
    stages = dict[str, Any]()
    for name, stage in raw["stages"].items():
        for made, fields in _grid(name, stage).items():
            if made in stages or (made != name and made in raw["stages"]):
                raise RequestError(
                    f"stages.{name}: a stage {made} is there already, which its lists would make; "
                    f"rename that one"
                )
            stages[made] = fields
    return {**raw, "stages": stages}


def _grid(name: Any, stage: Any) -> dict[Any, Any]:
    """Return the stages that a measurement's lists stand for, by name; itself without lists."""
    config = stage_class(stage.get("stage")) if isinstance(stage, dict) else None
    lists = {
        field: stage[field]
        for field in (config.several if config else ())
        if isinstance(stage.get(field), list)
    }
    if not lists:
        return {name: stage}
    if empty := next((field for field, values in lists.items() if not values), None):
        raise RequestError(f"stages.{name}.{empty}: the list is empty; leave the stage out instead")
    for field, values in lists.items():
        if None in values:
            raise RequestError(f"stages.{name}.{field}: a list cannot hold null; write the value")
        if twice := [each for at, each in enumerate(values) if each in values[:at]]:
            raise RequestError(f"stages.{name}.{field}: {shown(twice[0])} is listed twice")
    made = dict[Any, Any]()
    for values in itertools.product(*lists.values()):
        parts = [re.sub(r"[^A-Za-z0-9_]+", "-", str(value)).strip("-") for value in values]
        named, fields = "-".join([str(name), *parts]), dict(zip(lists, values, strict=True))
        if named in made and made[named] != {**stage, **fields}:
            raise RequestError(
                f"stages.{name}: two of what its lists name would both be called {named}; name "
                f"one of them in `{SOURCES}`"
            )
        made[named] = {**stage, **fields}
    return made
