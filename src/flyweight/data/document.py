"""What a source of text looks like: documents, lazily, for each of three splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flyweight.config import schema

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """A document's text, or the next piece of the document before it (`continues`).

    In pieces, a document need not fit in memory.
    """

    name: str
    text: str
    continues: bool = False


@dataclass(frozen=True)
class Skipped:
    """A document that was left out, and why; the packer counts them."""

    name: str
    reason: str


@dataclass(frozen=True)
class HeldOut:
    """The fractions held out where a corpus has no standard split."""

    validation: float = 0.05
    test: float = 0.05


@dataclass(frozen=True)
class About:
    """What a source says about itself.

    `origin` is where the text came from, in words. `tokenizer` is the default one. `separated`:
    documents end in a separator token. `line_ends_are_words`: the corpus' word counts include one
    `<eos>` for each line end (PTB, WikiText). `contiguous`: validation and test are together the
    tail of one text. `published`: the vocabulary is a published one, to which nothing is added.
    """

    name: str
    origin: str
    tokenizer: schema.Tokenizer
    separated: bool
    line_ends_are_words: bool = False
    contiguous: bool = False
    published: bool = False


class Source(Protocol):
    """Named text with three splits."""

    @property
    def about(self) -> About:
        """Name, origin, default tokenizer and conventions."""
        ...

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield a split's documents in a fixed order."""
        ...


def text_label(config: Mapping[str, Any]) -> str:
    """Return what a text is called, given the fields of its data config."""
    return schema.Data.model_validate(config, context={"resolved": True}).label
