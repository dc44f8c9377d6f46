"""Fields of a recipe that a Python function is given, as the `path=value` words one types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flyweight.errors import RequestError


def field_words(**fields: object) -> list[str]:
    """Return the words that set these fields; None leaves a field as it is.

    Mappings are laid over what is there, leaf by leaf: `model={"dim": 64}` is `model.dim=64`.
    Raises RequestError for a value that a recipe cannot hold.
    """
    values = {name: value for name, value in fields.items() if value is not None and value != {}}
    return [word for name, value in values.items() for word in _words(name, value)]


def check_words(words: Sequence[object]) -> None:
    """Raise RequestError for an override that is not text, and say how it is written."""
    for word in words:
        if isinstance(word, str):
            continue
        written = "'train.steps=400'"
        if isinstance(word, Mapping) and word:
            fields = {str(name): value for name, value in word.items()}
            written = ", ".join(repr(each) for each in field_words(**fields)) or written
        raise RequestError(f"{word!r}: an override is text, path=value: {written}")


def corpus_fields(data: str | Path | Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Return the fields of `data`, where the name of a corpus alone stands for its field."""
    return {"corpus": str(data)} if isinstance(data, str | Path) else data


def _words(path: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value and not any("." in str(key) for key in value):
        kind_first = sorted(value, key=lambda key: key != "kind")
        for key in kind_first:
            yield from _words(f"{path}.{key}", value[key])
        return
    try:
        yield f"{path}={json.dumps(_plain(value), ensure_ascii=False)}"
    except TypeError as error:
        raise RequestError(f"{path}: a recipe cannot hold {value!r} ({error})") from error


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
