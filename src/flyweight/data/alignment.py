"""Two tokenizers on one text: where both end a token, and what both can say of what follows.

A place is a count of the text's bytes, plus 1 for each document that ended. Marks between documents
stand for that 1. Where the text itself is "a thing" and the tokenizers cut it as

    student   a| th|in|g|        places  1 4 6 7
    teacher   a| thing|                  1     7

the common boundaries are 1 and 7: what both have read there is the same text.

Of what follows, both know by which shared token it begins: the longest token of both vocabularies
that is a prefix of a token (`shared_groups`). For tokenizers that always take the longest token
this is the same event for both; for one tokenizer twice it is its token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.data.corpus import Corpus
from flyweight.data.document import Document, Skipped
from flyweight.data.shards import Tokens
from flyweight.data.token_bytes import TokenBytes, token_bytes
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

END = "the end of a document"
"""What tokens are called that end a document, whatever their own name."""

BLOCK = 4096
"""Tokens between two places that are kept: those between are counted again when asked for."""


@dataclass(frozen=True)
class TokenPlaces:
    """Where each token of a packed text ends, and whether it can be compared there.

    `lengths` (V,) are the tokens' bytes. `moved` are tokens of another length, and by how much;
    `blind` are tokens behind which nothing is compared. Both are sorted by the token's number.
    """

    tokens: Tokens
    lengths: np.ndarray
    moved: tuple[np.ndarray, np.ndarray]
    blind: np.ndarray
    bases: np.ndarray

    def ends(self, first: int, last: int) -> np.ndarray:
        """Return the places behind the tokens `first` to `last` (exclusive), int64."""
        start = first // BLOCK * BLOCK
        lengths = self._lengths(start, last)
        return (self.bases[first // BLOCK] + np.cumsum(lengths))[first - start :]

    def start(self, token: int) -> int:
        """Return the place before a token."""
        return 0 if token == 0 else int(self.ends(token - 1, token)[0])

    def comparable(self, first: int, last: int) -> np.ndarray:
        """Return behind which of the tokens `first` to `last` predictions are compared, bool."""
        result = np.ones(last - first, bool)
        low, high = np.searchsorted(self.blind, (first, last))
        result[self.blind[low:high] - first] = False
        return result

    def until(self, place: int) -> int:
        """Return how many tokens end at a place or before it."""
        block = max(0, int(np.searchsorted(self.bases, place, side="right")) - 1)
        first = block * BLOCK
        ends = self.ends(first, min(first + BLOCK, len(self.tokens)))
        return first + int(np.searchsorted(ends, place, side="right"))

    def from_place(self, place: int) -> int:
        """Return the first token that begins at a place or behind it."""
        if place == 0:
            return 0
        before = self.until(place - 1)
        return min(before + 1, len(self.tokens))

    def _lengths(self, first: int, last: int) -> np.ndarray:
        lengths = self.lengths[self.tokens[first:last]]
        numbers, changes = self.moved
        low, high = np.searchsorted(numbers, (first, last))
        lengths[numbers[low:high] - first] += changes[low:high]
        return lengths

    @classmethod
    def of(cls, corpus: Corpus, documents: Iterable[Document | Skipped]) -> TokenPlaces:
        """Find the places of a corpus' training text, given its raw documents in order.

        Raises RequestError for a tokenizer whose tokens have no bytes, and for tokens that do not
        give the text back.
        """
        walk = _Walk(corpus, token_bytes(corpus.tokenizer))
        for document in documents:
            if isinstance(document, Document):
                walk.read(document)
        return walk.finish()


class _Walk:
    """Reads a text and its tokens side by side, and notes where a token is more than its bytes."""

    def __init__(self, corpus: Corpus, known: TokenBytes) -> None:
        self.tokens = corpus.split("train").tokens
        self.opening, self.closing = len(corpus.meta.opening), len(corpus.closing)
        self.known = known
        self.lengths = np.array([len(part or b"") for part in known.table], np.int64)
        self.at = 0
        self.moved = dict[int, int]()
        self.blind = list[int]()

    def read(self, document: Document) -> None:
        """Go over the tokens of a document's next piece; raise RequestError where they differ."""
        if not document.continues:
            self._marks((self.closing if self.at else 0) + self.opening)
        text = document.text.encode()
        if not text:
            return
        space = self.known.adds_space(document.text)
        expected = b" " + text if space else text
        ids = self.tokens[self.at : self.at + len(expected)]
        count = int(np.searchsorted(np.cumsum(self.lengths[ids]), len(expected))) + 1
        told = [self.known.table[token] or b"" for token in ids[:count].tolist()]
        if b"".join(told) != expected:
            raise RequestError(_lost(told, expected, document.name))
        if space:
            self.moved[self.at] = -1
            self._blind(self.at - 1)
        self.at += count

    def _marks(self, count: int) -> None:
        """Go over the tokens between two documents, or before the first; they count as 1 place."""
        first, self.at = self.at, self.at + count
        self.blind += range(first, self.at - 1)
        if first == 0:
            return
        if count == 0:  # nothing in the tokens tells that a document ended
            self.moved[first - 1] = self.moved.get(first - 1, 0) + 1
            self._blind(first - 1)
            return
        self.moved[self.at - 1] = 1

    def _blind(self, token: int) -> None:
        if token >= 0:
            self.blind.append(token)

    def finish(self) -> TokenPlaces:
        """Return the places, the text's end included."""
        if self.at == len(self.tokens):
            self._blind(self.at - 1)  # nothing follows
        if self.at < len(self.tokens):  # marks behind the last document
            self.moved[len(self.tokens) - 1] = 1
            self.blind += range(self.at, len(self.tokens))
        numbers = sorted(self.moved)
        moved = (
            np.array(numbers, np.int64),
            np.array([self.moved[number] for number in numbers], np.int64),
        )
        blind = np.unique(np.array(self.blind, np.int64))
        bare = TokenPlaces(self.tokens, self.lengths, moved, blind, np.zeros(0, np.int64))
        sums = [0]
        for start in range(0, len(self.tokens), BLOCK):
            block = bare._lengths(start, min(start + BLOCK, len(self.tokens)))
            sums.append(sums[-1] + int(block.sum()))
        return TokenPlaces(self.tokens, self.lengths, moved, blind, np.array(sums[:-1], np.int64))


def _lost(told: Sequence[bytes], expected: bytes, name: str) -> str:
    """Say where tokens and text part."""
    have = b"".join(told)
    pairs = enumerate(zip(have, expected, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(have), len(expected)))
    shown = expected[max(0, place - 10) : place + 10].decode("utf-8", "replace")
    return (
        f"its tokens do not give the text back ({name}, near {shown!r}), so nothing tells where "
        "they end in it"
    )


@dataclass(frozen=True)
class AlignedWindow:
    """What a teacher reads beside a window of a student, and where both can be compared.

    `segments` are ranges of the teacher's tokens, two where the window runs over the text's end.
    `positions` (T,) are, for each of the student's inputs, the teacher's token that ends with it,
    counted from the first that it reads; -1 where there is no common boundary.
    """

    segments: tuple[tuple[int, int], ...]
    positions: np.ndarray

    @property
    def tokens(self) -> int:
        """How many tokens the teacher reads."""
        return sum(last - first for first, last in self.segments)


def align(student: TokenPlaces, teacher: TokenPlaces, start: int, length: int) -> AlignedWindow:
    """Return what a teacher reads of the student's window of `length` inputs from token `start`.

    The student's text is a ring, as `flyweight.data.windows` reads it. The teacher reads its tokens
    that begin and end in the window, and nothing before or behind it.
    """
    ring = len(student.tokens) - 1
    segments, positions = list[tuple[int, int]](), list[np.ndarray]()
    read = 0
    for first, last in ((start, min(start + length, ring)), (0, start + length - ring)):
        if last <= first:
            continue
        ends = student.ends(first, last)
        low, high = teacher.from_place(student.start(first)), teacher.until(int(ends[-1]))
        high = max(low, high)
        theirs = teacher.ends(low, high) if high > low else np.zeros(0, np.int64)
        shared = np.full(last - first, -1, np.int64)
        numbers = np.flatnonzero(teacher.comparable(low, high))
        _, own, other = np.intersect1d(
            np.where(student.comparable(first, last), ends, -1),
            theirs[numbers],
            return_indices=True,
        )
        shared[own] = numbers[other] + read
        segments.append((low, high))
        positions.append(shared)
        read += high - low
    return AlignedWindow(tuple(segments), np.concatenate(positions))


@dataclass(frozen=True)
class SharedGroups:
    """Groups of tokens that begin alike: for each vocabulary the group of every token, (V,) int64.

    There are `count` groups, each of a token that all vocabularies have; `text` of them stand for
    text. Tokens that begin with none have the number `count`.
    """

    of: tuple[np.ndarray, ...]
    count: int
    text: int


def shared_groups(known: Sequence[TokenBytes], marks: Sequence[int | None]) -> SharedGroups:
    """Return the groups of tokens of several vocabularies: the longest shared token at their start.

    `marks` are the tokens that end a document, which are one group where all have one. Other
    special tokens are shared where all call them by the same name.
    """
    common = set[bytes].intersection(*({part for part in each.table if part} for each in known))
    numbers = dict[bytes, int]()
    for part in known[0].table:
        if part in common:
            numbers.setdefault(part, len(numbers))
    together = all(mark is not None for mark in marks)
    named = [
        {token: END if together and token == mark else name for token, name in each.special.items()}
        for each, mark in zip(known, marks, strict=True)
    ]
    names = set[str].intersection(*(set(each.values()) for each in named))
    special = {name: len(numbers) + at for at, name in enumerate(sorted(names))}
    count = len(numbers) + len(special)
    found = list[np.ndarray]()
    for each, tokens in zip(known, named, strict=True):
        groups = np.array([_group(part, numbers, count) for part in each.table], np.int64)
        for token, name in tokens.items():
            groups[token] = special.get(name, count)
        found.append(groups)
    return SharedGroups(tuple(found), count, len(numbers))


def _group(part: bytes | None, numbers: dict[bytes, int], none: int) -> int:
    """Return the number of the longest shared token that a token begins with."""
    if part is not None:
        for length in range(len(part), 0, -1):
            if (number := numbers.get(part[:length])) is not None:
                return number
    return none


def first_mark(corpus: Corpus) -> int | None:
    """Return the first token that a corpus has between two documents; None where there is none."""
    between = (*corpus.closing, *corpus.meta.opening)
    return between[0] if between else None


def same_tokenizer(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether two tokenizers cut every text alike, as far as their files tell."""
    return one.fingerprint == other.fingerprint and one.around == other.around
