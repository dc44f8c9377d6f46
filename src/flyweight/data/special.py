"""Find the tokens that begin and end a text, as a model's own files name them.

The files name one or several of them, by text or by id, and under any name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.errors import FlyweightError

WORDS = "tokenizer_config.json"
"""Names special tokens by their text, and says whether a begin or end token is added to a text."""

IDS = ("generation_config.json", "config.json")
"""Name special tokens by their ids."""

_OLDER = "special_tokens_map.json"


@dataclass(frozen=True)
class Special:
    """The special tokens that a folder's files name; None or empty where they name none.

    `ends` are all ids that end a text, the tokenizer's own first. `adds`: whether a begin and an
    end token are added to each text; None leaves that to the post-processor in `tokenizer.json`.
    """

    bos: int | None = None
    ends: tuple[int, ...] = ()
    pad: int | None = None
    adds: tuple[bool, bool] | None = None


def read(folder: Path, vocab: Mapping[str, int]) -> Special:
    """Return what the files of a folder say; raise FlyweightError for a damaged one.

    Tokens outside `vocab` do not count.
    """
    fields = {**json_object(folder / _OLDER), **json_object(folder / WORDS)}
    by_id = [json_object(folder / name) for name in IDS]
    vocab_ids = set(vocab.values())

    def named(key: str) -> list[int]:
        word = content(fields.get(f"{key}_token"))
        ids = [vocab[word]] if word in vocab else []
        for entry in by_id:
            value = entry.get(f"{key}_token_id")
            ids += [
                at
                for at in (value if isinstance(value, list) else [value])
                if type(at) is int and at in vocab_ids
            ]
        return list(dict.fromkeys(ids))

    adds = None
    if "add_bos_token" in fields or "add_eos_token" in fields:
        adds = bool(fields.get("add_bos_token")), bool(fields.get("add_eos_token"))
    bos, pad = named("bos"), named("pad")
    return Special(bos[0] if bos else None, tuple(named("eos")), pad[0] if pad else None, adds)


def of_post_processor(raw: Mapping[str, Any] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a `tokenizer.json`'s post-processor puts before and after one text."""
    raw = raw or {}
    if raw.get("type") == "Sequence":
        parts = [of_post_processor(part) for part in raw.get("processors", [])]
        return tuple(at for before, _ in parts for at in before), tuple(
            at for _, after in parts for at in after
        )
    if raw.get("type") in ("BertProcessing", "RobertaProcessing"):
        return (raw["cls"][1],), (raw["sep"][1],)
    if raw.get("type") != "TemplateProcessing":
        return (), ()
    before, after = list[int](), list[int]()
    side = before
    for part in raw["single"]:
        if "Sequence" in part:
            side = after
        else:
            side += raw["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    return tuple(before), tuple(after)


def config(
    words: Mapping[str, str | None], adds: tuple[bool, bool] | None, context: int | None = None
) -> dict[str, Any]:
    """Return a `tokenizer_config.json` that AutoTokenizer reads.

    `words` are the texts of `bos`, `eos` and `pad`.
    """
    fields: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{key}_token": word for key, word in words.items() if word is not None},
    }
    if context is not None:
        fields["model_max_length"] = context
    if adds is not None:
        fields |= {"add_bos_token": adds[0], "add_eos_token": adds[1]}
    return fields


def ids(special: Special) -> dict[str, int | list[int] | None]:
    """Return the fields by which `config.json` and `generation_config.json` name special tokens."""
    ends: int | list[int] | None = list(special.ends)
    if len(special.ends) < 2:
        ends = special.ends[0] if special.ends else None
    return {"bos_token_id": special.bos, "eos_token_id": ends, "pad_token_id": special.pad}


def first(names: Sequence[str], vocab: Mapping[str, int], allowed: Sequence[int]) -> int | None:
    """Return the id of the first of these texts that is one of the allowed ids, or None."""
    return next((vocab[name] for name in names if vocab.get(name) in allowed), None)


def content(value: object) -> str:
    """Return a special token's text, which the files keep plain or with its flags."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def json_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where the file does not exist.

    Raises FlyweightError for a damaged one.
    """
    if not file.is_file():
        return {}
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlyweightError(
            f"{file}: damaged, not valid JSON ({error}); copy the model again"
        ) from error
    if not isinstance(raw, dict):
        raise FlyweightError(f"{file}: damaged, not a JSON object; copy the model again")
    return raw
