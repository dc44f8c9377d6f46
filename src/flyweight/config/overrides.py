"""Whether a `path=value` word has any effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyweight.config.yaml import parse_yaml
from flyweight.errors import RequestError

SHARED = ("data", "train", "model")
"""Sections whose fields are defaults of the stages."""


def refuse_unused(word: str, filled: Mapping[str, Any]) -> None:
    """Raise RequestError for a word that sets a default which every stage has a value of its own for.

    `filled` is the raw recipe with all words applied and its defaults moved into the stages.
    """
    path, _, text = word.partition("=")
    section, *keys = path.split(".")
    stages = filled.get("stages")
    if section not in SHARED or not isinstance(stages, dict):
        return
    value = parse_yaml(text, path)
    takers = {
        name: stage[section]
        for name, stage in stages.items()
        if isinstance(stage, dict)
        and stage.get("stage") in ("pretrain", "distill")
        and section in stage
    }
    if any(_holds(taker, keys, value) for taker in takers.values()):
        return
    if not takers:
        raise RequestError(
            f"{word}: no stage of this recipe takes {section} from its defaults, so this would "
            f"change nothing"
        )
    own = [name for name, taker in takers.items() if _present(taker, keys)] or list(takers)
    instead = " ".join(f"stages.{name}.{word}" for name in own)
    raise RequestError(
        f"{word}: every stage has a value of its own there, so this would change nothing; say "
        f"{instead}"
    )


def _present(section: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(section, dict) or section.get(key) is None:
            return False
        section = section[key]
    return True


def _holds(section: Any, keys: list[str], value: Any) -> bool:
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
