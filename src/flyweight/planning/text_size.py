"""The size of a text: the bytes of its splits, and about how many tokens they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.data.document import SPLITS, Document, HeldOut, Source, SplitName
from flyweight.data.sources import resolve
from flyweight.errors import FlyweightError

BYTES_PER_TOKEN = {"byte": 1.0, "char": 1.0, "word": 5.5, "file": 3.8, "model": 3.8}
BPE_BYTES_PER_TOKEN = {257: 1.0, 512: 1.9, 1024: 2.4, 2048: 2.9, 4096: 3.4, 16_384: 4.0}
"""Bytes of text or code that a token stands for, by the vocabulary of a byte-pair tokenizer."""

OPENING = 400
"""Characters of a text's beginning that are kept, for a prompt."""


@dataclass(frozen=True)
class TextSize:
    """The bytes of a text's splits in UTF-8, and its beginning, from which prompts are taken."""

    bytes: Mapping[SplitName, int]
    opening: str = ""

    @classmethod
    def of(cls, source: Source) -> TextSize:
        """Return the size of a source's text; every document is read once."""
        sizes: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)
        opening = ""
        for split in SPLITS:
            for part in source.documents(split):
                if isinstance(part, Document):
                    opening = opening or part.text[:OPENING]
                    sizes[split] += len(part.text.encode())
        return cls(sizes, opening)

    @property
    def whole(self) -> int:
        """Bytes of all splits."""
        return sum(self.bytes.values())

    def tokens(self, split: SplitName, tokenizer: schema.Tokenizer) -> float:
        """Return about how many tokens a tokenizer makes of a split."""
        return self.bytes[split] / bytes_per_token(tokenizer)


def bytes_per_token(tokenizer: schema.Tokenizer) -> float:
    """Return about how many bytes of text a token encodes."""
    if not isinstance(tokenizer, schema.BpeTokenizer):
        return BYTES_PER_TOKEN[tokenizer.kind]
    return max(size for vocab, size in BPE_BYTES_PER_TOKEN.items() if vocab <= tokenizer.vocab)


def text_size(data: schema.Data, data_dir: Path | None) -> TextSize:
    """Return the size of a corpus, which is read once a process, and fetched where it is elsewhere.

    Of a stream it is what will be packed. Raises FlyweightError where it is missing or unreadable.
    """
    if data.stream is not None:
        return _head_size(data.stream)
    assert data.corpus is not None
    return _read(data.corpus, HeldOut(data.validation, data.test), data_dir, data.column)


def local_text_size(data: schema.Data, data_dir: Path | None) -> TextSize | None:
    """Return the size of a corpus on this machine; None where it is elsewhere or unreadable."""
    if data.stream is not None:
        return _head_size(data.stream)
    assert data.corpus is not None
    try:
        held_out = HeldOut(data.validation, data.test)
        source = resolve(data.corpus, data_dir, held_out, data.column)
        if source.about.origin.startswith("hf:"):
            return None  # reading it would fetch it
        return text_size(data, data_dir)
    except FlyweightError:
        return None  # packing says what is wrong with it


def _head_size(stream: Stream) -> TextSize:
    """Return the size of what is packed of a stream, which is all that anything but training reads.

    A short stream has less.
    """
    sizes: dict[SplitName, int] = {
        "train": stream.sample,
        "validation": stream.validation,
        "test": stream.test,
    }
    return TextSize(sizes)


@lru_cache(maxsize=64)
def _read(
    corpus: str | tuple[str, ...], held_out: HeldOut, data_dir: Path | None, column: str | None
) -> TextSize:
    return TextSize.of(resolve(corpus, data_dir, held_out, column))
