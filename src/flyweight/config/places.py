"""Where a field of some name stands in a recipe: the answer to a name in the wrong place."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable

from pydantic import BaseModel

from flyweight.config import schema
from flyweight.config.linear_kinds import REGISTRY

RECIPE_DEFAULTS: dict[str, tuple[type[BaseModel], ...]] = {
    "data": (schema.Data,),
    "train": (schema.Train,),
    "model": schema.ARCHITECTURES,
}
"""Fields of a recipe that `Recipe` itself does not have: they are laid into its stages."""
DEEPEST = 3


def config_classes(annotation: object) -> list[type[BaseModel]]:
    """Return the config classes inside an annotation."""
    if annotation is schema.StageConfig:
        return list(schema.STAGE_CONFIGS.values())
    if annotation is schema.LinearKind:
        return list(REGISTRY.values())
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        inner = typing.get_args(annotation)
        return [config for part in inner for config in config_classes(part)]
    return []


def places(name: str, configs: Iterable[type[BaseModel]]) -> list[str]:
    """Return the paths below these configs, as short as possible, at which a field `name` stands.

    Paths into a mapping with keys of the user's own (stages) are not looked for.
    """
    level = [("", config) for config in configs]
    for _ in range(DEEPEST):
        below = [
            (f"{path}{field}.", inner) for path, config in level for field, inner in _inner(config)
        ]
        paths = [f"{path}{name}" for path, config in below if name in config.model_fields]
        if paths:
            return list(dict.fromkeys(paths))
        level = below
    return []


def recipe_places(name: str) -> list[str]:
    """Return where a field `name` stands in a recipe, top-level defaults included."""
    return places(name, [schema.Recipe])


def _inner(config: type[BaseModel]) -> Iterable[tuple[str, type[BaseModel]]]:
    for field, info in config.model_fields.items():
        if typing.get_origin(info.annotation) is not dict:
            yield from ((field, inner) for inner in config_classes(info.annotation))
    if config is schema.Recipe:
        for field, defaults in RECIPE_DEFAULTS.items():
            yield from ((field, default) for default in defaults)
