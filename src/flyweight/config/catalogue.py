"""Model configs that come with the package, by name."""

from __future__ import annotations

import difflib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml
from pydantic import TypeAdapter

from flyweight.config.schema import Architecture
from flyweight.errors import RequestError

_SUFFIX = ".yaml"

PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M": "smollm2-135m",
    "Qwen/Qwen3-0.6B": "qwen3-0.6b",
    "Qwen/Qwen3-8B": "qwen3-8b",
    "meta-llama/Llama-3.2-1B": "llama-3.2-1b",
    "openai-community/gpt2": "gpt2",
    "openai-community/gpt2-large": "gpt2-large",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-xl": "gpt2-xl",
}
"""Models of the Hugging Face hub whose shape is in the catalogue, with its name there."""


def names() -> list[str]:
    """Return the names of all shipped configs, sorted.

    A folder's name is part of its entries' names.
    """
    return sorted(_entries())


def load(name: str) -> Architecture:
    """Return the shipped config `name`, resolved.

    Raises RequestError with the nearest name if there is none.
    """
    return TypeAdapter(Architecture).validate_python(fields(name)).resolved()


def published(reference: str) -> Architecture | None:
    """Return the shape of `hf:owner/name[@revision]`; None where the catalogue does not have it."""
    repository = reference.removeprefix("hf:").partition("@")[0]
    if repository == reference or repository not in PUBLISHED:
        return None
    return load(PUBLISHED[repository])


def fields(name: str) -> dict[str, Any]:
    """Return the shipped config `name` as it is written, to lay other fields over.

    Raises RequestError as `load` does.
    """
    entries = _entries()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"there are {', '.join(sorted(entries))}"
        )
        raise RequestError(f"{name}: no model of this name in the catalogue; {hint}")
    return yaml.safe_load(entries[name].read_text(encoding="utf-8"))


def _entries() -> dict[str, Traversable]:
    return dict(_walk(files("flyweight") / "assets" / "catalogue", ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    files: list[tuple[str, Traversable]] = []
    for item in folder.iterdir():
        if item.is_dir():
            files += _walk(item, f"{prefix}{item.name}/")
        elif item.name.endswith(_SUFFIX):
            files.append((prefix + item.name.removesuffix(_SUFFIX), item))
    return files
