"""From YAML and `path=value` words to a checked Recipe: every fault at once, each with where it stands and the nearest name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flyweight.config import catalogue, overrides, schema
from flyweight.config.baselines import DECODER, kind_of_model
from flyweight.config.explain import (
    Fault,
    explain as explain,
    faults,
    nearest as nearest,
    shown as shown,
)
from flyweight.config.places import config_classes, recipe_places
from flyweight.config.rules import LIMITS, stage_faults
from flyweight.config.schema import ARCHITECTURES, Architecture, Recipe, Strict
from flyweight.config.yaml import parse_yaml as parse_yaml, read_yaml as read_yaml
from flyweight.errors import RequestError

DEFAULTS = ("data", "train", "model")
MODELS = ("pretrain", "distill", "select", "init", "quantize", "mix")
"""Stages whose artifact holds a model."""

REFERENCES = ("teacher", "input")
"""Fields of a stage that name another stage or a MODEL."""


# --- overrides ---


def override(raw: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a raw recipe with `path=value` words applied; values are YAML.

    Raises RequestError for a word without `=` and for a path into a stage that is not there. Any
    other unknown name is found by the validation that follows.
    """
    raw = copy.deepcopy(raw)
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise RequestError(
                f"{word!r}: an override is written path=value, for example "
                f"stages.teacher.train.steps=400"
            )
        keys = path.split(".")
        _check_start(keys, raw)
        put(raw, keys, parse_yaml(text, path), path)
    for word in words:
        overrides.refuse_unused(word, _laid_out(raw))
    return raw


def _check_start(keys: Sequence[str], raw: Mapping[str, Any]) -> None:
    """Raise RequestError for a path into a recipe that begins with no name of a recipe, with the place that may be meant."""
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return
    path = ".".join(keys)
    if keys[0] == "stages" and len(keys) > 1 and keys[1] not in stages:
        names = [f"stages.{name}" for name in stages]
        raise RequestError(f"{path}: there is no such stage{nearest('.'.join(keys[:2]), names)}")
    if keys[0] in Recipe.model_fields or keys[0] in DEFAULTS:
        return
    if keys[0] in stages:
        raise RequestError(f"{path}: {keys[0]} is a stage; did you mean stages.{path}?")
    meant = [".".join([place, *keys[1:]]) for place in recipe_places(keys[0])]
    known = nearest(keys[0], [*Recipe.model_fields, *DEFAULTS])
    if meant:
        raise RequestError(f"{path}: unknown name (did you mean {' or '.join(meant)}?)")
    raise RequestError(f"{path}: unknown name{known}")


def put(raw: dict[str, Any], keys: Sequence[str], value: Any, path: str) -> None:
    """Set a field by its keys.

    Raises RequestError, which names `path`, where a value stands in the way.
    """
    for key in keys[:-1]:
        inner = raw.get(key)
        if inner is None:
            inner = {}
        elif isinstance(inner, str):
            inner = {"kind": inner}  # a choice by name, about to get an option
        elif not isinstance(inner, dict):
            raise RequestError(f"{path}: {key} holds the value {shown(inner)} and has no fields")
        raw[key] = inner
        raw = inner
    raw[keys[-1]] = value


def merge(default: Any, own: Any) -> Any:
    """Return `own` laid over `default`, mapping by mapping.

    A choice of another kind replaces the default whole.
    """
    if isinstance(default, str) and isinstance(own, dict) and "kind" not in own:
        return {"kind": default, **own}  # a choice by name that gets options
    if not isinstance(default, dict):
        return own
    if isinstance(own, str) and "kind" in default:
        own = {"kind": own}
    if not isinstance(own, dict):
        return own
    if "kind" in own and own["kind"] != default.get("kind", own["kind"]):
        return own
    return {
        key: merge(default[key], own[key])
        if key in default and key in own
        else {**default, **own}[key]
        for key in {**default, **own}
    }


# --- recipes ---


def _with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Move the top-level `data`, `train` and `model` into every stage that trains, and write out the catalogue's models."""
    recipe = _laid_out(raw)
    stages = recipe.get("stages")
    if not isinstance(stages, dict):
        return recipe
    return {**recipe, "stages": {name: _with_fields(stage) for name, stage in stages.items()}}


def _with_fields(stage: Any) -> Any:
    if not isinstance(stage, dict) or "model" not in stage:
        return stage
    return {
        **stage,
        "model": _written_out(stage["model"], follows_text=stage.get("stage") != "init"),
    }


def _laid_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Move the top-level `data`, `train` and `model` into every stage that trains."""
    recipe = {key: value for key, value in raw.items() if key not in DEFAULTS}
    stages = recipe.get("stages")
    if not isinstance(stages, dict):
        return recipe
    filled = {}
    for name, stage in stages.items():
        if isinstance(stage, dict) and stage.get("stage") in ("pretrain", "distill"):
            given = [
                key
                for key in DEFAULTS
                if key in raw and not (key == "model" and "input" in stage and key not in stage)
            ]
            stage = {
                **stage,
                **{
                    key: _laid(key, raw[key], stage[key]) if key in stage else raw[key]
                    for key in given
                },
            }
        filled[name] = stage
    return {**recipe, "stages": filled}


def _written_out(model: Any, follows_text: bool) -> Any:
    """Return a raw model in which a catalogue's name, alone or as `kind`, is replaced by that model's fields.

    Fields beside the name are laid over them. Where there is a text, vocabulary and context are its
    business, as in a study.
    """
    own = {"kind": model} if isinstance(model, str) else model
    name = own.get("kind") if isinstance(own, dict) else None
    if not isinstance(name, str) or name not in catalogue.names():
        return model
    fields = catalogue.fields(name)
    if follows_text:
        fields = {
            key: value for key, value in fields.items() if key not in ("vocab_size", "context")
        }
    return merge(fields, {key: value for key, value in own.items() if key != "kind"})


def _laid(key: str, default: Any, own: Any) -> Any:
    """Return a stage's own `data`, `train` or `model` over the recipe's.

    A model of another kind replaces the default whole.

    A default that names no kind is a decoder's; a stage that names none takes the default's. A
    stage tied by `same_as` takes no other limit from the recipe, which would cut it short of what
    it is due, and one with a limit of its own no `same_as`.
    """
    if key == "train" and isinstance(default, dict) and isinstance(own, dict):
        limited = any(own.get(limit) is not None for limit in LIMITS)
        dropped = LIMITS if own.get("same_as") is not None else ("same_as",) if limited else ()
        default = {name: value for name, value in default.items() if name not in dropped}
    other = key == "model" and isinstance(default, dict) and isinstance(own, dict) and "kind" in own
    return own if other and own["kind"] != kind_of_model(default) else merge(default, own)


def recipe(
    raw: Mapping[str, Any], where: str = "the recipe", without: Sequence[str] = ()
) -> Recipe:
    """Return the checked recipe of raw YAML data; raise RequestError with every fault found.

    A recipe is checked whole before the stages `without` are left out: what is malformed cannot be
    searched for them.
    """
    checked = _checked(raw, where)
    return _checked(leave_out(raw, without), where) if without else checked


def _checked(raw: Mapping[str, Any], where: str) -> Recipe:
    in_defaults = _default_faults(raw)
    try:
        checked = Recipe.model_validate(_with_defaults(raw))
    except ValidationError as error:
        lines = _told_once(in_defaults, faults(error, Recipe))
        raise RequestError("\n".join([f"{where}:", *(f"  {line}" for line in lines)])) from error
    if in_defaults:
        raise RequestError(
            "\n".join([f"{where}:", *(f"  {fault.line()}" for fault in in_defaults)])
        )
    if contradictions := _reference_faults(checked):
        raise RequestError("\n".join([f"{where}:", *(f"  {fault}" for fault in contradictions)]))
    return checked


def _default_faults(raw: Mapping[str, Any]) -> list[Fault]:
    """Return what is wrong with the top-level `data`, `train` and `model` themselves, whether or not a stage takes them.

    What is missing in a default may stand in the stages, and what contradicts itself may be
    replaced there.
    """
    kinds: dict[str, tuple[Any, Sequence[type[Strict]]]] = {
        "data": (schema.Data, [schema.Data]),
        "train": (schema.Train, [schema.Train]),
        "model": (Architecture, ARCHITECTURES),
    }
    found = []
    for key, (kind, roots) in kinds.items():
        section = _written_out(raw.get(key), follows_text=True) if key == "model" else raw.get(key)
        if section is None:
            continue
        try:
            TypeAdapter(kind).validate_python(section)
        except ValidationError as error:
            for fault in faults(error, *roots):
                if fault.kind != "missing" and not (fault.kind == "value_error" and not fault.path):
                    found.append(Fault((key, *fault.path), fault.text, fault.kind))
    return found


def _told_once(defaults: Sequence[Fault], stages: Sequence[Fault]) -> list[str]:
    """Return the lines of all faults: one that stages share is told once, at its default or else at the first stage."""
    known = {(fault.path, fault.text) for fault in defaults}
    lines, shared = [fault.line() for fault in defaults], dict[tuple[Any, ...], list[Fault]]()
    for fault in stages:
        place = (
            fault.path[2:] if fault.path[:1] == ("stages",) and len(fault.path) > 2 else fault.path
        )
        if (place, fault.text) not in known:
            shared.setdefault((place, fault.text), []).append(fault)
    for (place, _), (first, *others) in shared.items():
        line = first.line()
        if first.kind == "missing" and place != first.path and place[0] in DEFAULTS:
            line += f"; name it here, or as {'.'.join(place)} for every stage"
        if others:
            line += f" (and the same in {', '.join(fault.path[1] for fault in others)})"
        lines.append(line)
    return lines


def model_config(raw: Mapping[str, Any], where: str) -> Architecture:
    """Return the checked model config of raw YAML data.

    Raises RequestError with every fault found.
    """
    try:
        return TypeAdapter(Architecture).validate_python(raw)
    except ValidationError as error:
        raise RequestError(explain(error, where, *ARCHITECTURES)) from error


def resolved(
    config: Architecture, where: str, vocab_size: int | None = None, context: int | None = None
) -> Architecture:
    """Return a model config with every derived number written out.

    Raises RequestError where that shows a fault.
    """
    try:
        return config.resolved(vocab_size, context)
    except ValidationError as error:
        raise RequestError(
            explain(error, where, type(config)).replace("(top level): ", "")
        ) from error
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from error


def check_stage(raw: Mapping[str, Any]) -> Any:
    """Return one checked stage config; raise RequestError with every fault found."""
    try:
        return TypeAdapter(schema.StageConfig).validate_python(raw)
    except ValidationError as error:
        raise RequestError(
            explain(error, f"{raw.get('stage')}", *config_classes(schema.StageConfig))
        ) from error


def dependencies(stage: Strict) -> dict[str, str]:
    """Return what a stage refers to: field -> stage name or MODEL, in a fixed order."""
    found = {
        name: value for name in REFERENCES if isinstance(value := getattr(stage, name, None), str)
    }
    found |= {f"among.{place}": name for place, name in enumerate(getattr(stage, "among", ()))}
    train = getattr(stage, "train", None)
    if train is not None and train.same_as is not None:
        found["train.same_as.stage"] = train.same_as.stage
    return found


def is_external(reference: str) -> bool:
    """Return whether a reference is a MODEL outside the recipe: a path, `RECIPE:STAGE` or `hf:...`."""
    return ":" in reference or "/" in reference or Path(reference).exists()


def order(checked: Recipe) -> list[str]:
    """Return the stages' names so that each comes after what it refers to, otherwise as written."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name not in done:
            for reference in dependencies(checked.stages[name]).values():
                if reference in checked.stages:
                    visit(reference)
            done.append(name)

    for name in checked.stages:
        visit(name)
    return done


def _reference_faults(checked: Recipe) -> list[str]:
    faults = []
    names = list(checked.stages)
    for name, stage in checked.stages.items():
        for field, reference in dependencies(stage).items():
            if reference not in names and (
                field == "train.same_as.stage" or not is_external(reference)
            ):
                faults.append(
                    f"stages.{name}.{field}: there is no stage "
                    f"{reference!r}{nearest(reference, names)}"
                )
        if isinstance(stage, schema.Pretrain) and (stage.model is None) == (stage.input is None):
            faults.append(
                f"stages.{name}: needs either model (a new one) or input (weights to go on "
                f"from), and not both"
            )
        faults += stage_faults(name, stage, checked)
    for position, name in enumerate(checked.report.compare):
        if name not in names:
            faults.append(
                f"report.compare.{position}: there is no stage {name!r}{nearest(name, names)}"
            )
        elif checked.stages[name].stage not in MODELS:
            faults.append(
                f"report.compare.{position}: {name} measures and makes no model that could be "
                f"compared"
            )
    if not any(stage.stage in MODELS for stage in checked.stages.values()):
        faults.append(
            "stages: none makes a model to report; `flyweight eval` and `flyweight floors` "
            "measure without a recipe"
        )
    return faults or _cycle_faults(checked)


def _cycle_faults(checked: Recipe) -> list[str]:
    def walk(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [
                f"stages.{name}: refers to itself through "
                f"{' -> '.join((*path[path.index(name) :], name))}"
            ]
        inside = [r for r in dependencies(checked.stages[name]).values() if r in checked.stages]
        return next((found for r in inside if (found := walk(r, (*path, name)))), [])

    return next((found for name in checked.stages if (found := walk(name, ()))), [])


def leave_out(raw: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a raw recipe without the named stages.

    What consumed one takes its input instead, where it has one.
    """
    raw = copy.deepcopy(dict(raw))
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return raw
    for name in names:
        if name not in stages:
            raise RequestError(f"--without {name}: there is no such stage{nearest(name, stages)}")
        source = stages.pop(name).get("input")
        for other, stage in stages.items():
            if name in stage.get("among", ()):
                stage["among"] = [each for each in stage["among"] if each != name]
            for field in REFERENCES:
                if stage.get(field) != name:
                    continue
                if source is None or field == "teacher":
                    raise RequestError(
                        f"--without {name}: stages.{other}.{field} needs it, and {name} has no "
                        f"input that could take its place;"
                        f" leave {other} out as well: --without {other}"
                    )
                stage[field] = source
            same_as = (stage.get("train") or {}).get("same_as") or {}
            if same_as.get("stage") == name:
                raise RequestError(
                    f"--without {name}: stages.{other}.train.same_as takes its limit from it; "
                    f"leave {other} out as well, or"
                    f" give it a limit of its own: stages.{other}.train.same_as=null "
                    f"stages.{other}.train.steps=..."
                )
        report = raw.get("report") or {}
        if "compare" in report:
            report["compare"] = [other for other in report["compare"] if other != name]
    if not stages:
        raise RequestError("--without: no stage is left to run")
    return raw


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe file, in which top-level `data`, `train` and `model` may stand as partial defaults."""
    result = Recipe.model_json_schema()
    definitions = result["$defs"]
    models = tuple(model.__name__ for model in ARCHITECTURES)
    shipped = {"enum": catalogue.names(), "description": "A model of the catalogue."}
    for names, field in ((("Data",), "data"), (("Train",), "train"), (models, "model")):
        for name in names:
            definitions[name].pop("required", None)
        choices: list[dict[str, Any]] = [{"$ref": f"#/$defs/{name}"} for name in names]
        choices += [shipped] if field == "model" else []
        known = choices[0] if len(choices) == 1 else {"anyOf": choices}
        result["properties"][field] = {
            **known,
            "description": f"Defaults of every stage's `{field}`.",
        }
    definitions["ModelConfig"]["properties"]["kind"] = {
        "enum": [DECODER, *catalogue.names()],
        "default": DECODER,
    }
    for name in ("Pretrain", "Distill", "Initialise"):
        properties = definitions[name]["properties"]
        properties["model"] = {"anyOf": [properties["model"], shipped]}
    for name in ("Pretrain", "Distill"):
        definitions[name]["required"] = [
            key for key in definitions[name]["required"] if key not in DEFAULTS
        ]
    for model in (
        definition
        for definition in definitions.values()
        if "kind" in definition.get("properties", {})
    ):
        model.setdefault("required", [])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
