"""From YAML and `path=value` words to a checked Recipe: every fault at once, each with where it stands and the nearest name."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from flyweight.config import schema
from flyweight.config.baselines import DECODER, kind_of_model
from flyweight.config.places import config_classes, places
from flyweight.config.rules import LIMITS, stage_faults
from flyweight.config.schema import ARCHITECTURES, Architecture, ModelConfig, Recipe, Strict
from flyweight.config.yaml_text import parse_yaml as parse_yaml, read_yaml as read_yaml
from flyweight.errors import RequestError

DEFAULTS = ("data", "train", "model")
MODELS = ("pretrain", "distill", "select", "init", "quantize")
"""Stages whose artifact holds a model."""

REFERENCES = ("teacher", "input")
"""Fields of a stage that name another stage or a MODEL."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" for the known name closest to `name`, or the list of names when none is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})" if known else ""


def shown(value: Any) -> str:
    """Return a value as a message quotes it: whole where it is short."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# --- overrides ---


def override(raw: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a raw recipe with `path=value` words applied; values are YAML.

    Raises RequestError for a word without `=` and for a path into a stage that is not there. Any other unknown name is found by
    the validation that follows.
    """
    raw = copy.deepcopy(raw)
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise RequestError(f"{word!r}: an override is written path=value, for example stages.teacher.train.steps=400")
        keys = path.split(".")
        stages = raw.get("stages")
        if keys[0] == "stages" and len(keys) > 1 and isinstance(stages, dict) and keys[1] not in stages:
            names = [f"stages.{name}" for name in stages]
            raise RequestError(f"{path}: there is no such stage{nearest('.'.join(keys[:2]), names)}")
        if keys[0] not in (*Recipe.model_fields, *DEFAULTS) and isinstance(stages, dict) and keys[0] in stages:
            raise RequestError(f"{path}: {keys[0]} is a stage; did you mean stages.{word}?")
        put(raw, keys, parse_yaml(text, path), path)
    return raw


def put(raw: dict[str, Any], keys: Sequence[str], value: Any, path: str) -> None:
    """Set a field by its keys; raise RequestError, which names `path`, where a value stands in the way."""
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
    """Return `own` laid over `default`, mapping by mapping; a choice of another kind replaces the default whole."""
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
        key: merge(default[key], own[key]) if key in default and key in own else {**default, **own}[key]
        for key in {**default, **own}
    }


# --- recipes ---


def _with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Move the top-level `data`, `train` and `model` into every stage that trains."""
    recipe = {key: value for key, value in raw.items() if key not in DEFAULTS}
    stages = recipe.get("stages")
    if not isinstance(stages, dict):
        return recipe
    filled = {}
    for name, stage in stages.items():
        if isinstance(stage, dict) and stage.get("stage") in ("pretrain", "distill"):
            given = [key for key in DEFAULTS if key in raw and not (key == "model" and "input" in stage and key not in stage)]
            stage = {**stage, **{key: _laid(key, raw[key], stage[key]) if key in stage else raw[key] for key in given}}
        filled[name] = stage
    return {**recipe, "stages": filled}


def _laid(key: str, default: Any, own: Any) -> Any:
    """Return a stage's own `data`, `train` or `model` over the recipe's; a model of another kind replaces the default whole.

    A default that names no kind is a decoder's; a stage that names none takes the default's. A stage tied by `same_as` takes no
    other limit from the recipe, which would cut it short of what it is due, and one with a limit of its own no `same_as`.
    """
    if key == "train" and isinstance(default, dict) and isinstance(own, dict):
        limited = any(own.get(limit) is not None for limit in LIMITS)
        dropped = LIMITS if own.get("same_as") is not None else ("same_as",) if limited else ()
        default = {name: value for name, value in default.items() if name not in dropped}
    other = key == "model" and isinstance(default, dict) and isinstance(own, dict) and "kind" in own
    return own if other and own["kind"] != kind_of_model(default) else merge(default, own)


def recipe(raw: Mapping[str, Any], where: str = "the recipe", without: Sequence[str] = ()) -> Recipe:
    """Return the checked recipe of raw YAML data; raise RequestError with every fault found.

    A recipe is checked whole before the stages `without` are left out: what is malformed cannot be searched for them.
    """
    checked = _checked(raw, where)
    return _checked(leave_out(raw, without), where) if without else checked


def _checked(raw: Mapping[str, Any], where: str) -> Recipe:
    try:
        checked = Recipe.model_validate(_with_defaults(raw))
    except ValidationError as error:
        raise RequestError(explain(error, where, Recipe)) from error
    if faults := _reference_faults(checked):
        raise RequestError("\n".join([f"{where}:", *(f"  {fault}" for fault in faults)]))
    return checked


def model_config(raw: Mapping[str, Any], where: str) -> Architecture:
    """Return the checked model config of raw YAML data; raise RequestError with every fault found."""
    try:
        return TypeAdapter(Architecture).validate_python(raw)
    except ValidationError as error:
        raise RequestError(explain(error, where, *ARCHITECTURES)) from error


def resolved(config: Architecture, where: str, vocab_size: int | None = None, context: int | None = None) -> Architecture:
    """Return a model config with every derived number written out; raise RequestError where that shows a fault."""
    try:
        return config.resolved(vocab_size, context)
    except ValidationError as error:
        raise RequestError(explain(error, where, type(config)).replace("(top level): ", "")) from error
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from error


def check_stage(raw: Mapping[str, Any]) -> Any:
    """Return one checked stage config; raise RequestError with every fault found."""
    try:
        return TypeAdapter(schema.StageConfig).validate_python(raw)
    except ValidationError as error:
        raise RequestError(explain(error, f"{raw.get('stage')}", *config_classes(schema.StageConfig))) from error


def dependencies(stage: Strict) -> dict[str, str]:
    """Return what a stage refers to: field -> stage name or MODEL, in a fixed order."""
    found = {name: value for name in REFERENCES if isinstance(value := getattr(stage, name, None), str)}
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
            if reference not in names and (field == "train.same_as.stage" or not is_external(reference)):
                faults.append(f"stages.{name}.{field}: there is no stage {reference!r}{nearest(reference, names)}")
        if isinstance(stage, schema.Pretrain) and (stage.model is None) == (stage.input is None):
            faults.append(f"stages.{name}: needs either model (a new one) or input (weights to go on from), and not both")
        faults += stage_faults(name, stage, checked)
    for position, name in enumerate(checked.report.compare):
        if name not in names:
            faults.append(f"report.compare.{position}: there is no stage {name!r}{nearest(name, names)}")
        elif checked.stages[name].stage not in MODELS:
            faults.append(f"report.compare.{position}: {name} measures and makes no model that could be compared")
    if not any(stage.stage in MODELS for stage in checked.stages.values()):
        faults.append("stages: none makes a model to report; `flyweight eval` and `flyweight floors` measure without a recipe")
    return faults or _cycle_faults(checked)


def _cycle_faults(checked: Recipe) -> list[str]:
    def walk(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [f"stages.{name}: refers to itself through {' -> '.join((*path[path.index(name) :], name))}"]
        inside = [r for r in dependencies(checked.stages[name]).values() if r in checked.stages]
        return next((found for r in inside if (found := walk(r, (*path, name)))), [])

    return next((found for name in checked.stages if (found := walk(name, ()))), [])


def leave_out(raw: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a raw recipe without the named stages; what consumed one takes its input instead, where it has one."""
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
                        f"--without {name}: stages.{other}.{field} needs it, and {name} has no input that could take its place;"
                        f" leave {other} out as well: --without {other}"
                    )
                stage[field] = source
            same_as = (stage.get("train") or {}).get("same_as") or {}
            if same_as.get("stage") == name:
                raise RequestError(
                    f"--without {name}: stages.{other}.train.same_as takes its limit from it; leave {other} out as well, or"
                    f" give it a limit of its own: stages.{other}.train.same_as=null stages.{other}.train.steps=..."
                )
        report = raw.get("report") or {}
        if "compare" in report:
            report["compare"] = [other for other in report["compare"] if other != name]
    if not stages:
        raise RequestError("--without: no stage is left to run")
    return raw


# --- explanations ---


def explain(error: ValidationError, where: str, *roots: type[BaseModel]) -> str:
    """Return a validation error as lines `path: what is wrong (the nearest name)`; `roots` are the kinds it could have been."""
    lines = [f"{where}:"]
    for fault in error.errors():
        names, configs = _place(roots, fault["loc"])
        path = ".".join(names) or "(top level)"
        context = fault.get("ctx", {})
        match fault["type"]:
            case "extra_forbidden":
                text = f"unknown name{_meant(names, configs)}"
            case "missing":
                text = "is missing"
            case "union_tag_invalid":
                tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
                text = f"unknown kind {context['tag']!r}{nearest(context['tag'], tags)}"
            case "union_tag_not_found":
                text = f"needs {context['discriminator']}: to say which it is"
            case "value_error":
                text = str(context["error"])
            case "literal_error":
                text = f"{shown(fault['input'])} is not one of {context['expected']}"
            case "model_type" | "dict_type" | "model_attributes_type":
                text = f"expected fields (key: value), found {shown(fault['input'])}"
            case _:
                text = f"{fault['msg']} (found {shown(fault['input'])})"
        lines.append(f"  {path}: {text}")
    return "\n".join(lines)


def _tag(model: type[BaseModel]) -> str | None:
    if model is ModelConfig:
        return DECODER
    for name in ("stage", "kind"):
        if name in model.model_fields and (names := typing.get_args(model.model_fields[name].annotation)):
            return names[0]
    return None


def _meant(names: Sequence[str], configs: list[type[BaseModel]]) -> str:
    """Return what an unknown name may have meant: the same name in its place, or a name alike."""
    if paths := places(names[-1], configs):
        return f" (did you mean {' or '.join('.'.join([*names[:-1], path]) for path in paths)}?)"
    return nearest(names[-1], _fields(configs))


def _place(roots: Sequence[type[BaseModel]], location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return a fault's path as the user wrote it (without union tags) and the configs it may be of."""
    names: list[str] = []
    current = list(roots)
    mapping: Any = None
    for step, part in enumerate(location):
        last = step == len(location) - 1
        tagged = [model for model in current if _tag(model) == part]
        # Where there are several kinds a tag comes first, even one that is also a field of another kind (mlp).
        if tagged and mapping is None and (len(current) > 1 or not (last or part in _fields(current))):
            current = tagged
            continue
        names.append(str(part))
        if last:
            break
        if mapping is not None:
            current, mapping = config_classes(mapping), None
            continue
        annotations = [model.model_fields[str(part)].annotation for model in current if str(part) in model.model_fields]
        if annotations and typing.get_origin(annotations[0]) is dict:
            mapping = typing.get_args(annotations[0])[1]
        elif annotations:
            current = [model for annotation in annotations for model in config_classes(annotation)]
    return names, current


def _fields(models: list[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe file, in which top-level `data`, `train` and `model` may stand as partial defaults."""
    result = Recipe.model_json_schema()
    definitions = result["$defs"]
    models = tuple(model.__name__ for model in ARCHITECTURES)
    for names, field in ((("Data",), "data"), (("Train",), "train"), (models, "model")):
        for name in names:
            definitions[name].pop("required", None)
        choices = [{"$ref": f"#/$defs/{name}"} for name in names]
        known = choices[0] if len(choices) == 1 else {"anyOf": choices}
        result["properties"][field] = {**known, "description": f"Defaults of every stage's `{field}`."}
    definitions["ModelConfig"]["properties"]["kind"] = {"const": DECODER, "default": DECODER}
    for name in ("Pretrain", "Distill"):
        definitions[name]["required"] = [key for key in definitions[name]["required"] if key not in DEFAULTS]
    for model in (definition for definition in definitions.values() if "kind" in definition.get("properties", {})):
        model.setdefault("required", [])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
