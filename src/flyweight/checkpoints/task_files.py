"""Checksums of a folder of lm-eval task files, and of the data that they name."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import yaml

from flyweight.core.files import is_path, reason, sha256
from flyweight.errors import RequestError

DATA_KEYS = frozenset(("dataset_path", "dataset_kwargs"))
"""Fields of a task file whose values may name files of questions."""

LEFT_OUT = frozenset(("__pycache__", ".ipynb_checkpoints"))
"""Folders that hold nothing of a task."""


def task_files(folder: Path) -> list[list[str]]:
    """Return the path and the SHA-256 of every file in a folder, and of the data they name.

    Raises RequestError where a file cannot be read.
    """
    try:
        own = sorted(
            file
            for file in folder.rglob("*")
            if file.is_file() and not LEFT_OUT & set(file.relative_to(folder).parts)
        )
        checked = [[file.relative_to(folder).as_posix(), sha256(file)] for file in own]
        named = {
            path: sha256(path)
            for file in own
            if file.suffix in (".yaml", ".yml")
            for path in _data_of(file)
        }
    except OSError as error:
        raise RequestError(f"--task-path {folder}: {reason(error)}") from error
    # Data by content alone: a folder that is moved with its data is the same tasks.
    return [*checked, *(["data", content] for content in sorted(named.values()))]


def _data_of(file: Path) -> Iterator[Path]:
    """Yield the files of questions that a task file names."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return  # lm-eval leaves such a file out
    if not isinstance(root, yaml.MappingNode):
        return
    for key, value in root.value:
        if isinstance(key, yaml.ScalarNode) and key.value in DATA_KEYS:
            for word in _scalars(value):
                yield from _files(word)


def _scalars(node: yaml.Node) -> Iterator[str]:
    """Yield the values of a YAML node and of what is in it."""
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)


def _files(word: str) -> Iterator[Path]:
    """Yield the files that a value names: itself, those in a folder, or those of a pattern."""
    if not word or len(word) > 1000 or "\0" in word or "\n" in word:
        return
    path = Path(word)
    if path.is_file():
        yield path
    elif path.is_dir() and is_path(word):
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    elif glob.has_magic(word):
        yield from (found for each in sorted(glob.glob(word)) if (found := Path(each)).is_file())
