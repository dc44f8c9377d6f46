"""Read recipes: shipped ones, files and mappings, with `path=value` words.

Part of `flyweight.api`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from flyweight.api.results import Run as Run
from flyweight.config import (
    load as config_load,
    schema,
)
from flyweight.errors import RequestError
from flyweight.studies import study_files

NO_STAGES = "without: {} is not a recipe, and has no stages to leave out"


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("flyweight") / "assets" / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load(
    recipe: str | Path | Mapping[str, object], *overrides: str, without: Sequence[str] = ()
) -> schema.Recipe:
    """Return a checked recipe, with `path=value` words applied and the stages `without` left out.

    `recipe` is a shipped name, a YAML file, or a mapping with a recipe's fields. Raises
    RequestError with every fault of the recipe, and for a study.
    """
    if isinstance(recipe, Mapping):
        name, raw = str(recipe.get("name", "the recipe")), copy.deepcopy(dict(recipe))
    else:
        name, raw = str(recipe), _read(recipe)
    if "models" in raw and "stages" not in raw:
        raise RequestError(f"{name} is a study, not a recipe: flyweight study {name}")
    return config_load.recipe(config_load.override(raw, overrides), name, without)


def with_words(
    recipe: str | Path, words: Sequence[str], without: Sequence[str] = ()
) -> Mapping[str, object]:
    """Return the fields of a shipped recipe or of a file with `path=value` words applied.

    The stages `without` are left out. For a model of the catalogue, the recipe is the one that
    trains it. Raises RequestError where there is no such recipe, or a word names nothing in it.
    """
    raw = config_load.override(_read(recipe_that_trains(str(recipe)) or recipe), words)
    return config_load.without_stages(raw, without) if without else raw


def _read(recipe: str | Path) -> dict[str, Any]:
    """Return the raw recipe or study of a name or file; raise RequestError where it is missing."""
    if not isinstance(recipe, str | Path):
        raise RequestError(f"a recipe is a name, a YAML file or a mapping, not {recipe!r}")
    name = str(recipe)
    if name in shipped():
        source = (resources.files("flyweight") / "assets" / "recipes" / f"{name}.yaml").read_text(
            encoding="utf-8"
        )
        return config_load.parse_yaml(source, name)
    if Path(recipe).exists() or Path(recipe).suffix in (".yaml", ".yml"):
        return config_load.read_yaml(Path(recipe))
    if name in study_files.shipped():
        raise RequestError(f"{name} is a study, not a recipe: flyweight study {name}")
    near = config_load.nearest(name, shipped())
    raise RequestError(f"no recipe is called {name!r}{near}; or name a YAML file")


def recipe_that_trains(model: str) -> str | None:
    """Return the shipped recipe that trains a model of the catalogue; None without such a one."""
    return next((name for name in shipped() if model in _trained_models(_read(name))), None)


def _trained_models(raw: Mapping[str, Any]) -> list[object]:
    """Return the models of the catalogue that a raw recipe trains; a shape alone is none."""
    models = [stage.get("model") for stage in raw.get("stages", {}).values() if _trains(stage)]
    return [each.get("kind") if isinstance(each, Mapping) else each for each in models]


def _trains(stage: Mapping[str, Any]) -> bool:
    kind = schema.stage_class(stage.get("stage"))
    return kind is not None and issubclass(kind, schema.TrainingStage)
