"""A byte-level BPE tokenizer without the entries that a text never uses.

What the text uses is encoded as before: an entry that stays keeps every entry that it can be merged
from, and merges keep their order. So the same merges apply, in the same order, to every word that
is encoded into kept entries. Other text is cut into more and shorter tokens, down to the 256 bytes,
which all stay, and so do special and added tokens. Every text still comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyweight.data.special import Special
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

KNOWN = ("ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing")
"""Post-processors whose ids can be renumbered."""


@dataclass(frozen=True)
class VocabularyCut:
    """A smaller tokenizer, and the old ids of its entries: entry `n` of it was `kept[n]`."""

    tokenizer: Tokenizer
    kept: tuple[int, ...]


def cut_vocabulary(tokenizer: Tokenizer, used: Iterable[int]) -> VocabularyCut:
    """Return a tokenizer with the entries of the ids `used`, and with all that they need.

    Ids keep their order; where all are used, it is the same tokenizer. Raises RequestError for a
    tokenizer of which that cannot be exact.
    """
    raw: dict[str, Any] = json.loads(tokenizer.text)
    if reason := cut_refusal(raw):
        raise RequestError(f"vocabulary: {reason}, so entries cannot be taken out exactly")
    vocab: dict[str, int] = raw["model"]["vocab"]
    merges = [_pair(merge) for merge in raw["model"]["merges"]]
    added = {token["id"] for token in raw.get("added_tokens") or ()}
    named = {*_named(tokenizer), *added}
    wanted = {*used, *named}
    bytes_ = _alphabet()
    tokens = {token for token, at in vocab.items() if at in wanted or token in bytes_}
    tokens = _with_parts(tokens, merges)
    kept = sorted({*(vocab[token] for token in tokens), *named})
    if len(kept) == tokenizer.vocab_size:
        return VocabularyCut(tokenizer, tuple(kept))
    new = {old: place for place, old in enumerate(kept)}
    raw["model"]["vocab"] = {token: new[at] for token, at in vocab.items() if token in tokens}
    raw["model"]["merges"] = [
        merge
        for merge, pair in zip(raw["model"]["merges"], merges, strict=True)
        if tokens.issuperset((*pair, "".join(pair)))
    ]
    for token in raw.get("added_tokens") or ():
        token["id"] = new[token["id"]]
    raw["post_processor"] = _renumbered(raw.get("post_processor"), new)
    raw["padding"] = raw["truncation"] = None
    text = json.dumps(raw, ensure_ascii=False)
    return VocabularyCut(Tokenizer(text, _declared(tokenizer.declared, new)), tuple(kept))


def cut_refusal(raw: Mapping[str, Any]) -> str:
    """Return why entries of a `tokenizer.json` cannot be taken out exactly; empty if they can."""
    model = raw["model"]
    if model.get("type", "BPE" if "merges" in model else None) != "BPE":
        return f"the tokenizer is of the kind {model.get('type')} and not a BPE of bytes"
    if "ByteLevel" not in _types(raw.get("pre_tokenizer")):
        return "the tokenizer's alphabet is not the 256 bytes"
    if missing := len([letter for letter in _alphabet() if letter not in model["vocab"]]):
        return f"the tokenizer lacks {missing} of the 256 bytes"
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "byte_fallback"):
        if model.get(name):
            return f"the tokenizer has {name}"
    strange = [kind for kind in _types(raw.get("post_processor")) if kind not in KNOWN]
    return f"its post-processor is {strange[0]}" if strange else ""


def _alphabet() -> frozenset[str]:
    """Return the characters that stand for the 256 bytes."""
    from tokenizers import pre_tokenizers

    return frozenset(pre_tokenizers.ByteLevel.alphabet())


def _types(part: Mapping[str, Any] | None) -> list[str]:
    """Return the types of a part of a tokenizer, or of those in its sequence."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        inner = part.get("processors") or part.get("pretokenizers") or ()
        return [kind for each in inner for kind in _types(each)]
    return [str(part.get("type"))]


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """Return the two parts of a merge, which files write as text or as a list."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _with_parts(tokens: set[str], merges: Sequence[tuple[str, str]]) -> set[str]:
    """Return tokens and all that they can be merged from, whichever merges those are."""
    parts = dict[str, list[tuple[str, str]]]()
    for pair in merges:
        parts.setdefault("".join(pair), []).append(pair)
    found, open_ = set(tokens), list(tokens)
    while open_:
        for pair in parts.get(open_.pop(), ()):
            fresh = [part for part in pair if part not in found]
            found.update(fresh)
            open_ += fresh
    return found


def _named(tokenizer: Tokenizer) -> set[int]:
    """Return the ids that begin, end or pad a text, or stand for what is unknown."""
    special = tokenizer.special
    ids = {special.bos, *special.ends, special.pad, tokenizer.separator, tokenizer.unknown}
    ids |= {*tokenizer.around[0], *tokenizer.around[1]}
    return {at for at in ids if at is not None}


def _declared(special: Special, new: Mapping[int, int]) -> Special:
    """Return the special tokens that files name under their new ids."""
    return replace(
        special,
        bos=None if special.bos is None else new[special.bos],
        ends=tuple(new[at] for at in special.ends),
        pad=None if special.pad is None else new[special.pad],
    )


def _renumbered(part: dict[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    """Return a post-processor with its ids as they are now."""
    if part is None:
        return None
    if part.get("type") == "Sequence":
        return {**part, "processors": [_renumbered(each, new) for each in part["processors"]]}
    if part.get("type") == "TemplateProcessing":
        tokens = {
            name: {**token, "ids": [new[at] for at in token["ids"]]}
            for name, token in part["special_tokens"].items()
        }
        return {**part, "special_tokens": tokens}
    if part.get("type") in ("BertProcessing", "RobertaProcessing"):
        pairs = {side: [part[side][0], new[part[side][1]]] for side in ("sep", "cls")}
        return {**part, **pairs}
    return part
