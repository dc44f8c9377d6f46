"""`path=value` words: laid over a raw recipe, and refused where they would change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.config.baselines import KINDS, kind_of_model
from flyweight.config.defaults import DEFAULTS, laid_out
from flyweight.config.expansions import SOURCES, taken_sources
from flyweight.config.messages import nearest, shown
from flyweight.config.places import recipe_places
from flyweight.config.plugins import load_plugins
from flyweight.config.schema import Recipe, stage_class
from flyweight.config.variants import VARIANTS, choose
from flyweight.config.words import check_words
from flyweight.config.yaml import parse_yaml
from flyweight.errors import RequestError


def override(raw: dict[str, Any], words: Sequence[str]) -> dict[str, object]:
    """Return a copy of a raw recipe with `path=value` words applied; values are YAML.

    Words that name a version of the recipe choose that first.

    Raises RequestError for a word that is not text or has no `=`, and for a path into a stage that
    is not there. Any other unknown name is found by the validation that follows.
    """
    check_words(words)
    load_plugins()
    versions = tuple(axes) if isinstance(axes := raw.get(VARIANTS), dict) else ()
    raw, words = choose(raw, words)
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise RequestError(
                f"{word!r}: an override is written path=value, for example "
                f"stages.teacher.train.steps=400"
            )
        keys = path.split(".")
        _check_start(keys, raw, versions)
        put(raw, keys, parse_yaml(text, path), path)
    for word in words:
        _refuse_unused(word, laid_out(raw))
    return raw


def _check_start(
    keys: Sequence[str], raw: Mapping[str, object], versions: Sequence[object]
) -> None:
    """Raise RequestError for a path that starts with an unknown name; say what may be meant.

    `versions` are the words that choose a version of the recipe.
    """
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return
    path = ".".join(keys)
    if keys[0] == "stages" and len(keys) > 1 and keys[1] not in stages:
        names = [f"stages.{name}" for name in stages]
        raise RequestError(f"{path}: there is no such stage{nearest('.'.join(keys[:2]), names)}")
    if keys[0] in (*Recipe.model_fields, *DEFAULTS, SOURCES):
        return
    if keys[0] in stages:
        raise RequestError(f"{path}: {keys[0]} is a stage; did you mean stages.{path}?")
    meant = [".".join([place, *keys[1:]]) for place in recipe_places(keys[0])]
    chosen = f"; its versions are chosen by {' and '.join(map(str, versions))}" if versions else ""
    suggestion = nearest(keys[0], [*map(str, versions), *Recipe.model_fields, *DEFAULTS])
    if meant:
        raise RequestError(f"{path}: unknown name (did you mean {' or '.join(meant)}?){chosen}")
    raise RequestError(f"{path}: unknown name{suggestion}{chosen}")


def put(raw: dict[str, Any], keys: Sequence[str], value: object, path: str) -> None:
    """Set a field by its keys; another kind of model takes the place of all fields of this one.

    Fields on the way are copied, because stages that name one YAML anchor hold the same ones.

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
        inner = dict(inner)
        raw[key] = inner
        raw = inner
    kinds = {value, kind_of_model(raw)} if isinstance(value, str) else set[str]()
    if list(keys[-2:]) == ["model", "kind"] and len(kinds & KINDS) == 2:
        raw.clear()
    raw[keys[-1]] = value


def _refuse_unused(word: str, filled: Mapping[str, object]) -> None:
    """Raise RequestError for a word that sets a default, or a source, which no stage takes.

    `filled` is the raw recipe with all words applied and its defaults moved into the stages.
    """
    path, _, text = word.partition("=")
    section, *keys = path.split(".")
    if section == SOURCES and keys and keys[0] not in (taken := taken_sources(filled)):
        raise RequestError(
            f"{word}: no stage takes a MODEL of this name, so this would change "
            f"nothing{nearest(keys[0], taken)}"
        )
    stages = filled.get("stages")
    if section not in DEFAULTS or not isinstance(stages, dict):
        return
    value = parse_yaml(text, path)
    takers = {
        name: stage[section]
        for name, stage in stages.items()
        if isinstance(stage, dict) and section in stage and _takes(stage, section)
    }
    if any(_holds(taker, keys, value) for taker in takers.values()):
        return
    if not takers:
        raise RequestError(
            f"{word}: no stage of this recipe takes {section} from its defaults, so this would "
            f"change nothing"
        )
    owners = [name for name, taker in takers.items() if _present(taker, keys)] or list(takers)
    instead = " ".join(f"stages.{name}.{word}" for name in owners)
    raise RequestError(
        f"{word}: every stage has a value of its own there, so this would change nothing; say "
        f"{instead}"
    )


def _present(section: object, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(section, dict) or section.get(key) is None:
            return False
        section = section[key]
    return True


def _holds(section: object, keys: list[str], value: object) -> bool:
    """Return whether a section has a value, or a part of it, under these keys."""
    for key in keys:
        if not isinstance(section, dict) or key not in section:
            return False
        section = section[key]
    if isinstance(value, dict) and isinstance(section, dict) and value:
        return any(_holds(section, [key], inner) for key, inner in value.items())
    if isinstance(value, str) and isinstance(section, dict):
        return section.get("kind") == value
    return section == value


def _takes(stage: Mapping[str, object], section: str) -> bool:
    """Return whether a raw stage takes a section of the recipe as its defaults."""
    config = stage_class(stage.get("stage"))
    return config is not None and section in config.defaults
