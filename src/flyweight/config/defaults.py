"""The top-level `data`, `train` and `model` of a recipe: laid into the stages that take them.

The catalogue's models are written out on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flyweight.config import catalogue, schema
from flyweight.config.baselines import kind_of_model
from flyweight.config.expansions import with_controls, with_grids, with_snapshots, with_sources
from flyweight.config.explain import Fault, faults
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import ARCHITECTURES, Architecture, Strict, stage_class

DEFAULTS = ("data", "train", "model")
"""Sections of a recipe file that are defaults of its stages."""


def merge(default: object, own: object) -> Any:
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


def with_defaults(raw: Mapping[str, object]) -> dict[str, object]:
    """Move the top-level sections into their stages, and write out the catalogue's models.

    Names for MODELs and words that stand for stages, such as controls, are written out as well.
    """
    recipe = laid_out(raw)
    if not isinstance(recipe.get("stages"), dict):
        return recipe
    recipe = with_sources(with_grids(with_controls(with_snapshots(recipe))))
    stages = recipe["stages"]
    return {**recipe, "stages": {name: _with_fields(stage) for name, stage in stages.items()}}


def _with_fields(stage: object) -> object:
    """Write out a raw stage's model; a stage's text decides vocabulary and context."""
    if not isinstance(stage, dict) or "model" not in stage:
        return stage
    config = stage_class(stage.get("stage"))
    follows_text = config is None or "data" in config.model_fields
    return {**stage, "model": _written_out(stage["model"], follows_text)}


def laid_out(raw: Mapping[str, object]) -> dict[str, object]:
    """Move the top-level `data`, `train` and `model` into every stage that takes them."""
    recipe = {key: value for key, value in raw.items() if key not in DEFAULTS}
    stages = recipe.get("stages")
    if not isinstance(stages, dict):
        return recipe
    return {**recipe, "stages": {name: _filled(stage, raw) for name, stage in stages.items()}}


def _filled(stage: Any, raw: Mapping[str, Any]) -> object:
    """Return a raw stage with the recipe's defaults laid under its own fields."""
    config = stage_class(stage.get("stage")) if isinstance(stage, dict) else None
    if config is None:
        return stage
    filled = dict(stage)
    for key in config.defaults:
        goes_on = key == "model" and "input" in stage and key not in stage
        if key not in raw or goes_on:
            continue
        filled[key] = _laid(key, raw[key], stage[key]) if key in stage else raw[key]
    return filled


def _written_out(model: Any, follows_text: bool) -> object:
    """Return a raw model with the fields of the catalogue's model that its name or `kind` names.

    Fields beside the name are laid over them. Where there is a text, vocabulary and context are its
    business, as in a study.
    """
    fields_of_model = {"kind": model} if isinstance(model, str) else model
    name = fields_of_model.get("kind") if isinstance(fields_of_model, dict) else None
    if not isinstance(name, str) or name not in catalogue.names():
        return model
    fields = catalogue.fields(name)
    if follows_text:
        fields = {
            key: value for key, value in fields.items() if key not in ("vocab_size", "context")
        }
    return merge(fields, {key: value for key, value in fields_of_model.items() if key != "kind"})


def _laid(key: str, default: Any, own: Any) -> object:
    """Return a stage's own `data`, `train` or `model` over the recipe's.

    A model of another kind replaces the default whole, and so does a task a text.

    A default that names no kind is a decoder's; a stage that names none takes the default's. A
    stage tied by `same_as` takes no other limit from the recipe, which would cut it short of what
    it is due, and one with a limit of its own no `same_as`.
    """
    both = isinstance(default, dict) and isinstance(own, dict)
    if key == "data" and both and ("task" in own) != ("task" in default):
        return own
    if key == "data" and isinstance(default, dict) and isinstance(own, dict):
        default = _of_text(default, own)
    if key == "train" and isinstance(default, dict) and isinstance(own, dict):
        dropped: tuple[str, ...] = ()
        if own.get("same_as") is not None:
            dropped = LIMITS
        elif any(own.get(limit) is not None for limit in LIMITS):
            dropped = ("same_as",)
        default = {name: value for name, value in default.items() if name not in dropped}
    named = isinstance(default, dict) and isinstance(own, dict) and "kind" in own
    if key == "model" and named and own["kind"] != kind_of_model(default):
        return own
    return merge(default, own)


_OF_CORPUS = ("corpus", "column", "separator", "validation", "test")


def _of_text(default: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the default `data` without its text, where a stage's own is of the other kind."""
    dropped: tuple[str, ...] = ()
    if "stream" in own and "corpus" in default:
        dropped = _OF_CORPUS
    elif "corpus" in own and "stream" in default:
        dropped = ("stream",)
    return {name: value for name, value in default.items() if name not in dropped}


def default_faults(raw: Mapping[str, object]) -> list[Fault]:
    """Return what is wrong with the top-level sections, even if no stage takes them.

    What is missing in a default may stand in the stages, and what contradicts itself may be
    replaced there.
    """
    kinds: dict[str, tuple[Any, Sequence[type[Strict]]]] = {
        "data": (schema.StageData, [schema.Data, schema.TaskData]),
        "train": (schema.Train, [schema.Train]),
        "model": (Architecture, ARCHITECTURES),
    }
    result = []
    for key, (kind, roots) in kinds.items():
        section = _written_out(raw.get(key), follows_text=True) if key == "model" else raw.get(key)
        if section is None:
            continue
        try:
            TypeAdapter(kind).validate_python(section)
        except ValidationError as error:
            for fault in faults(error, *roots, around=schema.Recipe):
                if fault.kind != "missing" and not (fault.kind == "value_error" and not fault.path):
                    result.append(Fault((key, *fault.path), fault.text, fault.kind))
    return result
