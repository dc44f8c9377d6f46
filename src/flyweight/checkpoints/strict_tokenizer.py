"""Read a `tokenizer.json` without transformers.

Refuses it where another file of the checkpoint changes what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flyweight.checkpoints.flyweight_type import OWN
from flyweight.checkpoints.read import Checkpoint
from flyweight.core.files import reason
from flyweight.data import special
from flyweight.data.special import WORDS, content, json_object
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

_HUB = "pip install 'flyweight[hub]' and import it again: transformers then builds the tokenizer"
_LETTERS = {"type": "ByteLevel"}
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT = {"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}

# The parts that a class of transformers 5 builds itself whatever tokenizer.json says, and the
# special tokens it has by default.
_REBUILT: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "GPT2Tokenizer": (
        {"normalizer": None, "pre_tokenizer": {**_BYTES, "use_regex": True}, "decoder": _LETTERS},
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    ),
    "Qwen2Tokenizer": (
        {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_SPLIT, _BYTES]},
            "decoder": _LETTERS,
        },
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    ),
}
_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
# What transformers takes where no file names a class; None takes tokenizer.json as it is.
_USUAL = {"gpt2": "GPT2Tokenizer", "qwen3": "Qwen2Tokenizer", "llama": None, OWN: None}


def read(source: Checkpoint) -> tuple[str, dict[str, str], dict[str, int]]:
    """Return the text of a checkpoint's `tokenizer.json`, its special tokens, and its ids.

    The special tokens are texts by `bos_token` and so on. Raises RequestError where other files
    would change what it says.
    """
    file = source.path / "tokenizer.json"
    if not file.is_file():
        raise RequestError(f"{source.path}: it has no tokenizer.json, only older files. {_HUB}")
    try:
        text = file.read_text(encoding="utf-8")
        tokenizer = Tokenizer(text)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file} is not a readable tokenizer.json ({reason(error)}); copy the model again"
        ) from error
    fields = json_object(source.path / WORDS)
    parts = meaning(tokenizer.normal_text)
    kind, reasons = _class(source, fields), list[str]()
    names: dict[str, str] = {}
    if kind is not None:
        rebuilt, names = _REBUILT[kind]
        if fields.get("add_prefix_space"):
            reasons.append("add_prefix_space")
        others = set(parts["model"]) - {"type", "vocab", "merges"}
        if parts["model"].get("type") != "BPE" or others:
            reasons.append(f"its class ({kind}) builds another model")
        reasons += [
            f"its class ({kind}) builds another {part}"
            for part, value in rebuilt.items()
            if parts[part] != value
        ]
    names = {**names, **_named(source, fields)}
    reasons += _missing(source, fields, names, tokenizer)
    if reasons:
        raise RequestError(
            f"{source.path}: other files change what its tokenizer.json says "
            f"({'; '.join(reasons[:3])}). {_HUB}"
        )
    return text, names, tokenizer.vocab


def meaning(text: str) -> dict[str, Any]:
    """Return only the parts of a `tokenizer.json` that change its ids or decoded texts."""
    raw = json.loads(text)
    parts = {key: _plain(raw.get(key)) for key in ("normalizer", "pre_tokenizer", "decoder")}
    if (parts["decoder"] or {}).get("type") == "ByteLevel":
        parts["decoder"] = _LETTERS
    model = {key: value for key, value in raw["model"].items() if value not in (None, "", False)}
    if "merges" in model:
        model["merges"] = [
            tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
            for merge in model["merges"]
        ]
    added = sorted(raw.get("added_tokens", []), key=lambda token: token["id"])
    around = special.of_post_processor(raw.get("post_processor"))
    return {**parts, "post_processor": around, "model": model, "added_tokens": added}


def _plain(part: object) -> Any:
    """Return a part without fields that only move offsets; None for an empty sequence."""
    if isinstance(part, list):
        return [_plain(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence" and not any(
        value for key, value in part.items() if key != "type"
    ):
        return None
    return {key: _plain(value) for key, value in part.items() if key != "trim_offsets"}


def _class(source: Checkpoint, fields: Mapping[str, object]) -> str | None:
    """Return the class that rebuilds parts, or None where `tokenizer.json` is taken as it is."""
    if source.model_type not in _USUAL:
        raise RequestError(
            f"{source.path}: the tokenizer of a {source.model_type} model needs transformers. "
            f"{_HUB}"
        )
    named = fields.get("tokenizer_class") or source.raw.get("tokenizer_class")
    if named is None:
        return _USUAL[source.model_type]
    if named in _PLAIN:
        return None
    kind = str(named).removesuffix("Fast")
    if kind not in _REBUILT:
        raise RequestError(
            f"{source.path}: its tokenizer is a {named}, which may change what tokenizer.json "
            f"says. {_HUB}"
        )
    return kind


def _unread(source: Checkpoint, fields: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return the special tokens whose value is not a token; transformers refuses them."""
    both = {**json_object(source.path / "special_tokens_map.json"), **fields}
    kinds = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
    named = [(key, both.get(key)) for key in (f"{kind}_token" for kind in kinds)]
    return [(key, value) for key, value in named if value is not None and not content(value)]


def _named(source: Checkpoint, fields: Mapping[str, object]) -> dict[str, str]:
    """Return the special tokens by name, as transformers reads them.

    The older file counts where the newer list is missing.
    """
    older = {}
    if "added_tokens_decoder" not in fields:
        older = json_object(source.path / "special_tokens_map.json")
    both = {**fields, **older}
    return {
        key: text
        for key, value in both.items()
        if key.endswith("_token") and (text := content(value))
    }


def _missing(
    source: Checkpoint, fields: Mapping[str, Any], names: Mapping[str, str], tokenizer: Tokenizer
) -> list[str]:
    """Return the tokens that other files add or make special."""
    reasons = [f"{key} {text!r}" for key, text in names.items() if text not in tokenizer.specials]
    reasons += [f"{key} {str(value)[:40]!r}" for key, value in _unread(source, fields)]
    listed = json_object(source.path / "added_tokens.json")
    decoder = fields.get("added_tokens_decoder") or {}
    added_tokens = {
        token["id"]: token for token in json.loads(tokenizer.normal_text)["added_tokens"]
    }
    if not isinstance(decoder, dict):
        return [*reasons, "added_tokens_decoder"]
    for at, token in decoder.items():
        flags = {}
        if str(at).isdigit():
            flags = {
                key: value for key, value in added_tokens.get(int(at), {}).items() if key != "id"
            }
        if not isinstance(token, dict) or {**flags, **token} != flags:
            reasons.append(f"token {at} of added_tokens_decoder")
    reasons += [
        f"{text!r} of added_tokens.json"
        for text, at in listed.items()
        if tokenizer.vocab.get(text) != at
    ]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = fields.get(key) or []
        texts = more.values() if isinstance(more, dict) else more
        if not isinstance(more, dict | list):
            reasons.append(f"{key} {str(more)[:40]!r}")
            continue
        reasons += [
            f"{key} {content(text)!r}" for text in texts if content(text) not in tokenizer.specials
        ]
    return reasons
