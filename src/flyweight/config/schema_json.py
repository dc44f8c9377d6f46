"""The JSON Schema of a recipe file: what an editor completes and checks."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from flyweight.config import catalogue
from flyweight.config.baselines import DECODER
from flyweight.config.expansions import CONTROLS, SOURCES
from flyweight.config.plugins import load_plugins
from flyweight.config.schema import ARCHITECTURES, STAGE_CONFIGS, Recipe, StageName, any_stage
from flyweight.config.variants import VARIANTS


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe file.

    Top-level `data`, `train` and `model` may stand there as partial defaults.
    """
    load_plugins()
    stages = (dict[StageName, any_stage()], Field(min_length=1))
    whole = create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, stages=stages)
    result = whole.model_json_schema()
    result["properties"] |= {**_stage_defaults(result["$defs"]), **_recipe_words()}
    _add_stage_words(result["$defs"])
    for definition in result["$defs"].values():
        if "kind" in definition.get("properties", {}):
            definition.setdefault("required", [])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


_SHIPPED = {"enum": catalogue.names(), "description": "A model of the catalogue."}


def _stage_defaults(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the top-level defaults of stages; each of their own fields may be missing."""
    models = tuple(model.__name__ for model in ARCHITECTURES)
    found = dict[str, Any]()
    for names, field in ((("Data",), "data"), (("Train",), "train"), (models, "model")):
        for name in names:
            definitions[name].pop("required", None)
        choices: list[dict[str, Any]] = [{"$ref": f"#/$defs/{name}"} for name in names]
        choices += [_SHIPPED] if field == "model" else []
        one = choices[0] if len(choices) == 1 else {"anyOf": choices}
        found[field] = {**one, "description": f"Defaults of every stage's `{field}`."}
    return found


def _recipe_words() -> dict[str, Any]:
    """Return the top-level fields that are gone once a recipe is read."""
    versions = {"type": "object", "additionalProperties": {"type": "object"}, "minProperties": 1}
    return {
        SOURCES: {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Names for MODELs, by which stages may refer to them.",
        },
        VARIANTS: {
            "type": "object",
            "additionalProperties": versions,
            "description": "Versions of the recipe by what they differ in: each has the fields "
            "that are laid over the others. A word such as protocol=published chooses one.",
        },
    }


def _add_stage_words(definitions: dict[str, Any]) -> None:
    """Add what stages may hold in a file: names of models, defaults, controls, records, lists."""
    definitions["ModelConfig"]["properties"]["kind"] = {
        "enum": [DECODER, *catalogue.names()],
        "default": DECODER,
    }
    for config in STAGE_CONFIGS.values():
        definition = definitions[config.__name__]
        properties = definition["properties"]
        if "model" in properties:
            properties["model"] = {"anyOf": [properties["model"], _SHIPPED]}
        if config.defaults:
            required = [key for key in definition["required"] if key not in config.defaults]
            definition["required"] = required
    _add_controls(definitions["Distill"]["properties"])
    for config in STAGE_CONFIGS.values():
        properties = definitions[config.__name__]["properties"]
        for field in properties.keys() & config.several:
            one = properties[field]
            properties[field] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _add_controls(properties: dict[str, Any]) -> None:
    """Add the words by which a distillation asks for more stages: controls, and a record."""
    properties["controls"] = {
        "type": "array",
        "items": {"enum": list(CONTROLS)},
        "description": "Controls that are made beside it: "
        + "; ".join(f"{word}: {what}" for word, what in CONTROLS.items()),
    }
    fields = {"k": {"type": "integer"}, "rest": {"type": "string"}, "store": {"type": "string"}}
    record = {"type": "object", "properties": fields, "additionalProperties": False}
    properties["told"] = {**properties["told"], "anyOf": [*properties["told"]["anyOf"], record]}
