"""The files of a model folder that hold its chat templates, read and not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.checkpoints.read import TEMPLATES
from flyweight.core.files import reason
from flyweight.data.special import json_object
from flyweight.errors import FlyweightError

TEMPLATE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"


def sources(folder: Path) -> dict[str, str]:
    """Return the chat templates of a model folder by name; `default` is the one for talking."""
    return {name: text for name, (text, _) in by_name(folder).items() if isinstance(text, str)}


def by_name(folder: Path) -> dict[str, tuple[object, Path]]:
    """Return each template's value and the file that holds it.

    As in transformers, template files replace the templates of the config.
    """
    files = {"default": folder / TEMPLATE} if (folder / TEMPLATE).is_file() else {}
    files |= {
        file.stem: file for file in sorted((folder / TEMPLATES).glob("*.jinja")) if file.is_file()
    }
    if files:
        return {name: (_text(file), file) for name, file in files.items()}
    where = folder / CONFIG
    templates: Any = json_object(where).get("chat_template")
    if isinstance(templates, list):
        entries = [
            entry
            for entry in templates
            if isinstance(entry, dict) and isinstance(entry.get("name"), str)
        ]
        templates = {entry["name"]: entry.get("template") for entry in entries}
    if not isinstance(templates, dict):
        templates = {"default": templates} if templates is not None else {}
    return {name: (text, where) for name, text in templates.items()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FlyweightError(
            f"{file}: cannot be read ({reason(error)}); copy the model again"
        ) from error
