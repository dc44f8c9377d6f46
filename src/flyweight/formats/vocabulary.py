"""Translate a byte-level BPE `tokenizer.json` for llama.cpp; no torch.

It becomes tokens, types, merges and the name of a pre-tokenizer. llama.cpp knows pre-tokenizers by
name and does not read regular expressions from the file. A tokenizer that splits text in any other
way is refused, because its ids would silently differ.
Sources: llama.cpp's `llama-vocab.cpp`; the `tokenizer.json` of GPT-2, Llama 3, Qwen2 and SmolLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

_CONTRACTIONS, _PUNCTUATION = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_PUNCTUATION}"
_DIGITS = "each digit alone, then " + _GPT2

# By how text is split and whether a word that is a token skips the merges.
PRE_TOKENIZERS: dict[tuple[str, bool], str] = {
    (_GPT2, False): "gpt-2",
    (_DIGITS, False): "smollm",
    (_QWEN2, False): "qwen2",
    (_LLAMA3, True): "llama-bpe",
    (_LLAMA3, False): "dbrx",
}

# Bytes that no UTF-8 text contains (RFC 3629); in GPT-2's alphabet each is the letter with its own
# number.
_NEVER = [chr(byte) for byte in (*range(0xF5, 0x100), 0xC0, 0xC1)]

# The names by which llama.cpp knows ends of turns, of messages and of texts (llama-vocab.cpp). Of
# several that end turns it takes any one, unless the file names one.
_TURNS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
)
_MESSAGES = ("<|eom_id|>",)
_TEXTS = ("<|endoftext|>", "<|end_of_text|>")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF holds it: `types` are llama.cpp's token types.

    `begin` and `end` are the ids that begin and end a text; `turn` and `message` are others that
    end one; `pad` is the padding token's. `adds`: whether a begin and an end token are put around
    each text.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    begin: int
    end: int
    turn: int | None
    message: int | None
    pad: int | None
    adds: tuple[bool, bool]
    warnings: tuple[str, ...]


def read(path: Path, size: int, reasons: list[str]) -> Vocabulary | None:
    """Return the tokenizer in a `tokenizer.json`, with `size` tokens.

    None where llama.cpp cannot do the same; every reason is added to `reasons`.
    """
    try:
        tokenizer = Tokenizer.load(path)
    except RequestError as error:
        reasons.append(str(error))
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    model, before, warnings = raw["model"], len(reasons), []
    if model["type"] != "BPE":
        reasons.append(
            f"its tokenizer is a {model['type']}, not a byte-level BPE, the only kind that "
            "llama.cpp reads alike"
        )
        return None
    pre = _pre_tokenizer(raw, reasons)
    reasons += _model_faults(raw)
    if tokenizer.vocab_size > size:
        reasons.append(f"its tokenizer has {tokenizer.vocab_size:,} ids, its model only {size:,}")
    _normalizer(raw, pre, reasons, warnings)
    tokens, types = _tokens(tokenizer, raw, size)
    if size > tokenizer.vocab_size:
        extra = size - tokenizer.vocab_size
        warnings.append(
            f"{extra:,} ids of the model have no token; they are written as unused tokens"
        )
    end = _end(tokenizer, reasons, warnings)
    _around(tokenizer, end, reasons)
    if len(reasons) > before or pre is None or end is None:
        return None
    turn, message = _other_ends(tokenizer, end, warnings)
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=_merges(model),
        begin=_begin(tokenizer, end),
        end=end,
        turn=turn,
        message=message,
        pad=tokenizer.pad,
        adds=(bool(tokenizer.around[0]), bool(tokenizer.around[1])),
        warnings=tuple(warnings),
    )


def _pre_tokenizer(raw: Mapping[str, Any], reasons: list[str]) -> str | None:
    splits = _splits(raw.get("pre_tokenizer"))
    whole = bool(raw["model"].get("ignore_merges"))
    if splits is None:
        reasons.append(
            "its tokenizer is not byte-level: its text does not go through the byte alphabet of "
            "GPT-2"
        )
        return None
    if not raw["model"]["merges"] and not whole:
        return "gpt-2"  # a token is a byte, however the text is split
    if (splits, whole) not in PRE_TOKENIZERS:
        how = f"splits text by {splits!r}" if splits else "does not split text into words"
        how += ", whole words first" if whole else ""
        reasons.append(
            f"its tokenizer {how}; of the pre-tokenizers of llama.cpp, "
            f"{', '.join(PRE_TOKENIZERS.values())} are known here"
        )
        return None
    return PRE_TOKENIZERS[splits, whole]


def _splits(raw: Mapping[str, Any] | None) -> str | None:
    """Return the regular expression by which text is split before its bytes become letters.

    None where its bytes do not become letters.
    """
    steps: list[Any] = []
    if raw:
        steps = raw.get("pretokenizers", []) if raw["type"] == "Sequence" else [raw]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    pattern = _GPT2 if steps[-1].get("use_regex", True) else ""
    before = steps[:-1]
    if not before:
        return pattern
    if before == [{"type": "Digits", "individual_digits": True}] and pattern:
        return _DIGITS
    if len(before) == 1 and before[0]["type"] == "Split" and not pattern:
        split = before[0]
        if split["behavior"] == "Isolated" and not split["invert"] and "Regex" in split["pattern"]:
            return split["pattern"]["Regex"]
    return json.dumps(before)


def _model_faults(raw: Mapping[str, Any]) -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    model, faults = raw["model"], []
    if model.get("dropout"):
        faults.append("its tokenizer drops merges by chance (dropout)")
    if (
        model.get("byte_fallback")
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
    ):
        faults.append(
            "its tokenizer marks pieces of words in a way of its own (byte fallback, prefix or "
            "suffix)"
        )
    if (raw.get("decoder") or {}).get("type") != "ByteLevel":
        faults.append("its tokenizer does not decode byte by byte")
    for token in raw.get("added_tokens", []):
        if not token["special"] and any(
            token.get(flag) for flag in ("lstrip", "rstrip", "single_word")
        ):
            faults.append(
                f"its added token {token['content']!r} takes the space beside it, or matches only "
                "whole words"
            )
    letters = set(ByteLevel.alphabet())
    added = {token["content"] for token in raw.get("added_tokens", [])}
    strange = [
        text for text in model["vocab"] if text not in added and not letters.issuperset(text)
    ]
    if strange:
        faults.append(f"{len(strange):,} tokens are not spelled in bytes (first: {strange[0]!r})")
    if missing := letters - model["vocab"].keys():
        faults.append(f"its tokenizer knows only {256 - len(missing)} of the 256 bytes")
    return faults


def _normalizer(
    raw: Mapping[str, Any], pre: str | None, reasons: list[str], warnings: list[str]
) -> None:
    normalizer = raw.get("normalizer")
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return
    if normalizer == {"type": "NFC"}:
        warnings.append(
            "llama.cpp does not bring text into Unicode's form NFC, this tokenizer does: give it "
            "text in that form"
        )
        return
    reasons.append(
        f"its tokenizer changes the text first ({normalizer['type']}), llama.cpp's "
        f"{pre or 'BPE'} does not"
    )


def _tokens(tokenizer: Tokenizer, raw: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return text and type of every id below `size`; ids without a token become unused ones."""
    import gguf

    kinds = gguf.TokenType
    added = {
        token["id"]: kinds.CONTROL if token["special"] else kinds.USER_DEFINED
        for token in raw.get("added_tokens", [])
    }
    texts = {at: text for text, at in tokenizer.vocab.items()}
    tokens = [texts.get(at, f"<|unused-{at}|>") for at in range(size)]
    types = [
        int(added.get(at, kinds.NORMAL)) if at in texts else int(kinds.UNUSED) for at in range(size)
    ]
    return tokens, types


def _merges(model: Mapping[str, Any]) -> list[str]:
    """Return the merges as `left right`.

    llama.cpp refuses a file without any. A tokenizer of bytes gets one merge, of two bytes that no
    text has side by side, into a token that does not exist.
    """
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return merges or [f"{_NEVER[0]} {_NEVER[1]}"]


def _end(tokenizer: Tokenizer, reasons: list[str], warnings: list[str]) -> int | None:
    """Return the id that ends a document.

    llama.cpp always has one, id 11 where the file names none, at which generation would end. A
    tokenizer without such a token gets a byte for it that no text contains.
    """
    if tokenizer.declared.ends:
        return tokenizer.declared.ends[0]
    if tokenizer.separator is not None:
        return tokenizer.separator
    end = next((tokenizer.vocab[letter] for letter in _NEVER if letter in tokenizer.vocab), None)
    if end is None:
        reasons.append(
            "its tokenizer has no token that ends a document, and no byte to use for it; llama.cpp "
            "needs one"
        )
    else:
        warnings.append(
            "the tokenizer has no token that ends a document: generation in llama.cpp ends only "
            "where you limit it"
        )
    return end


def _around(tokenizer: Tokenizer, end: int | None, reasons: list[str]) -> None:
    """Add a reason where the tokenizer puts more around a text than one begin and one end token."""
    before, after = tokenizer.around
    if len(before) > 1 or after not in ((), (end,)):
        reasons.append(
            f"its tokenizer puts the tokens {list(before)} before and {list(after)} after a text; "
            "llama.cpp puts one that begins and the one that ends a text at most"
        )


def _begin(tokenizer: Tokenizer, end: int) -> int:
    """Return the id that begins a text.

    llama.cpp always has one: the end's id where the tokenizer has none.
    """
    if tokenizer.begin:
        return tokenizer.begin[0]
    return end if tokenizer.special.bos is None else tokenizer.special.bos


def _other_ends(
    tokenizer: Tokenizer, end: int, warnings: list[str]
) -> tuple[int | None, int | None]:
    """Return the id that ends a turn and the one that ends a message.

    They are the ends of the usual names, else any other ends.
    """
    texts = {at: text for text, at in tokenizer.vocab.items()}
    ends = [
        at
        for at in dict.fromkeys([*tokenizer.special.ends, *sorted(tokenizer.ends)])
        if at not in tokenizer.begin
    ]
    named = {texts[at]: at for at in ends}
    turn = next((named[name] for name in _TURNS if name in named), None)
    message = next((named[name] for name in _MESSAGES if name in named), None)
    others = [at for at in ends if at != end and texts[at] not in (*_TURNS, *_MESSAGES, *_TEXTS)]
    if turn is None and others:
        turn = others.pop(0)
    if message is None and others:
        message = others.pop(0)
    if others:
        names = ", ".join(repr(texts[at]) for at in others)
        warnings.append(
            f"GGUF has no place for all tokens that end a text: {names} will not stop llama.cpp"
        )
    return turn, message
