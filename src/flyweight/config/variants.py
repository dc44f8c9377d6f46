"""Versions of one recipe, of which a word chooses one.

variants: {protocol: {repaired: {}, published: {stages: {tuned: {train: {epochs: 2}}}}}}

`protocol=published` lays that version's fields over the recipe. The first version is the default.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.config.defaults import DEFAULTS, merge
from flyweight.config.expansions import SOURCES
from flyweight.config.messages import nearest, shown
from flyweight.config.schema import Recipe
from flyweight.config.yaml import parse_yaml
from flyweight.errors import RequestError

VARIANTS = "variants"


def choose(raw: Mapping[str, Any], words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a raw recipe in the versions that its words name, and the words that are left.

    Raises RequestError for a version that is not there, and for versions that are not written as
    such.
    """
    recipe = copy.deepcopy(dict(raw))
    axes = recipe.pop(VARIANTS, None)
    if axes is None:
        return recipe, list(words)
    asked, rest = dict[str, str](), list[str]()
    for word in words:
        name, equals, value = word.partition("=")
        if equals and isinstance(axes, dict) and name in axes:
            asked[name] = _unquoted(value, name)
        else:
            rest.append(word)
    for name, versions in _checked_axes(axes).items():
        chosen = asked.get(name, next(iter(versions)))
        if chosen not in versions:
            raise RequestError(
                f"{name}={chosen}: there is no such version{nearest(chosen, versions)}"
            )
        recipe = _laid_over(recipe, versions[chosen], f"{VARIANTS}.{name}.{chosen}")
    return recipe, rest


def _unquoted(value: str, name: str) -> str:
    """Return the name of a version as it was meant: quotes around it are YAML's."""
    read = parse_yaml(value, name) if value[:1] in ("'", '"') else value
    return read if isinstance(read, str) else value


def _checked_axes(axes: object) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the versions by what they are versions of; raise RequestError for anything else."""
    if not isinstance(axes, dict):
        raise RequestError(f"{VARIANTS}: holds {shown(axes)}; name versions by what they differ in")
    for name, versions in axes.items():
        where = f"{VARIANTS}.{name}"
        if name in {*Recipe.model_fields, *DEFAULTS, SOURCES}:
            raise RequestError(f"{where}: {name} is a field of recipes; choose another name")
        if not isinstance(name, str) or not isinstance(versions, dict) or not versions:
            raise RequestError(f"{where}: name the versions with the fields that differ in each")
        for version, fields in versions.items():
            if not isinstance(version, str):
                raise RequestError(
                    f"{where}: {version!r} as the name of a version is not text; put it in quotes"
                )
            if not isinstance(fields, dict):
                raise RequestError(
                    f"{where}.{version}: a version has the fields that differ; {{}} where none does"
                )
    return axes


def _laid_over(recipe: dict[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a raw recipe with a version's fields; a stage of another kind replaces the other's.

    A stage that is null is left out. Raises RequestError where there is none.
    """
    stages = recipe.get("stages")
    own = fields.get("stages")
    merged = merge({**recipe, "stages": {}}, {**fields, "stages": {}})
    if not isinstance(stages, dict) or not isinstance(own, dict):
        return {**merged, "stages": stages if own is None else own}
    laid = dict(stages)
    for name, stage in own.items():
        if stage is None:
            if name not in laid:
                raise RequestError(
                    f"{where}.stages.{name}: is null, and there is no such "
                    f"stage{nearest(str(name), laid)}"
                )
            del laid[name]
            continue
        laid[name] = merge(laid.get(name), stage) if _goes_on(laid.get(name), stage) else stage
    return {**merged, "stages": laid}


def _goes_on(before: object, stage: object) -> bool:
    """Return whether a version's raw stage is of the same kind as the one that it is laid over."""
    if not isinstance(before, dict) or not isinstance(stage, dict):
        return False
    return stage.get("stage", before.get("stage")) == before.get("stage")
