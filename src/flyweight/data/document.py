"""What a source of text looks like: documents, lazily, for each of three splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from flyweight.config import schema

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """A document's text, or the next piece of the document before it (`continues`), so that no file need fit in memory."""

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

    `origin` says in words where the text came from and `tokenizer` is the default; `separated` says
    whether documents end in a separator token; `line_ends_are_words` whether the corpus' word
    counts include one `<eos>` for each line end (PTB, WikiText); `contiguous` whether validation
    and test follow each other in one text, so that both together are its tail; `published` whether
    its vocabulary is a published one, to which nothing is added.
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


def corpus_label(corpus: str | Sequence[str]) -> str:
    """Return what `data.corpus` is called: itself, or for a list its first file and how many more there are."""
    if isinstance(corpus, str):
        return corpus
    more = len(corpus) - 1
    return f"{corpus[0]} and {more} more" if more else corpus[0]
