"""Which bytes of the text each token of a vocabulary stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_OF_LETTER = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + at): byte
    for at, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)
}
"""GPT-2's alphabet: the letter of each byte, with that byte."""
_MARK = "\u2581"  # what sentencepiece writes for a space

Space = Literal["never", "always", "unless_space"]
"""When a tokenizer puts a space before a text that the text does not have."""


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of every token by its id, None for those that stand for no text.

    `special` are the names of special tokens by id. `space` says when an encoded text begins with a
    space of the tokenizer's own.
    """

    table: tuple[bytes | None, ...]
    special: Mapping[int, str]
    space: Space = "never"

    def adds_space(self, text: str) -> bool:
        """Return whether the tokens of a text begin with a space that the text does not have."""
        if self.space == "unless_space":
            return not text.startswith((" ", _MARK))
        return self.space == "always"


def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    """Return the bytes of a tokenizer's tokens.

    Known are byte-level vocabularies (GPT-2's alphabet), those with a sign for a space
    (sentencepiece), and those whose tokens are pieces of the text as it stands. Raises RequestError
    for others, such as words: their white space belongs to no token.
    """
    raw = json.loads(tokenizer.text)
    kinds = [str(step.get("type")) for step in _steps(raw.get("decoder"))]
    table: list[bytes | None] = [None] * tokenizer.vocab_size
    if "ByteLevel" in kinds:
        spelled = _of_letters
    elif "ByteFallback" in kinds or "Metaspace" in kinds:
        spelled = _of_pieces
    elif kinds == ["Fuse"]:
        spelled = _as_written
    else:
        raise RequestError(
            f"its tokens have no bytes of their own (decoder: {' and '.join(kinds) or 'none'}): "
            "only tokens of bytes, characters or sentencepiece's pieces can be aligned"
        )
    added = raw.get("added_tokens") or ()
    special = {token["id"]: token["content"] for token in added if token.get("special")}
    model = raw["model"].get("vocab") or {}
    named = dict(model) if isinstance(model, dict) else {row[0]: at for at, row in enumerate(model)}
    for text, at in tokenizer.vocab.items():
        if at not in special and at != tokenizer.unknown:
            table[at] = spelled(text) if text in named else text.encode()
    return TokenBytes(tuple(table), special, _space(raw))


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or decoder, those of sequences one by one."""
    if part is None:
        return []
    for name in ("decoders", "normalizers", "pretokenizers"):
        if name in part:
            return [step for inner in part[name] for step in _steps(inner)]
    return [part]


def _space(raw: Mapping[str, Any]) -> Space:
    """Return when a tokenizer puts a space before a text."""
    if any(step.get("type") == "Prepend" for step in _steps(raw.get("normalizer"))):
        return "always"
    for step in _steps(raw.get("pre_tokenizer")):
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return "unless_space"
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space", True):
            return "unless_space"
    return "never"


def _of_letters(token: str) -> bytes | None:
    """Return the bytes of a token of GPT-2's alphabet; None where it has other letters."""
    values = [BYTE_OF_LETTER.get(letter, -1) for letter in token]
    return None if not values or min(values) < 0 else bytes(values)


def _of_pieces(token: str) -> bytes | None:
    """Return the bytes of a sentencepiece token; None for an empty one."""
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace(_MARK, " ").encode() or None


def _as_written(token: str) -> bytes | None:
    """Return the bytes of a token that is a piece of the text; None for an empty one."""
    return token.encode() or None
