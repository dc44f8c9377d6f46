"""The documents of a stream as tokens, and the steps of windows that they are cut into.

Documents are encoded as the packer does it and stand one after another. Windows follow each other
in that text without gaps: the last target of one is the first input of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from flyweight.data.documents import UNMARKED
from flyweight.data.reading import split_text
from flyweight.data.streams.order import Block, BlockStart, StreamEvent, StreamOrder
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

CHARACTERS = 1 << 19
"""Characters that are cut into tokens at once."""


@dataclass(frozen=True)
class StreamPlace:
    """Where a step begins: a document of a block, and how many of its tokens are before it.

    `place` counts the documents of the block, in the order in which they are learned. `bytes` are
    those of the text of all documents before it. `shards_skipped` and `rows_skipped` are what was
    left out so far, up to the end of the block.
    """

    block: BlockStart = field(default_factory=BlockStart)
    place: int = 0
    offset: int = 0
    bytes: int = 0
    shards_skipped: int = 0
    rows_skipped: int = 0

    def json(self) -> dict[str, Any]:
        """Return the place as plain data."""
        return asdict(self)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> StreamPlace:
        """Return the place of plain data."""
        return cls(**{**fields, "block": BlockStart(**fields["block"])})

    @property
    def documents(self) -> int:
        """How many documents were learned to their end before it."""
        return self.block.documents + self.place


@dataclass(frozen=True)
class Edges:
    """The ids before and after each document; `isolated`: each is read by itself."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    isolated: bool = False


@dataclass(frozen=True)
class StreamStep:
    """The windows of one step, (B, T + 1), from `place` on; the next step begins at `next`.

    Where documents are isolated, `ids` are those of each token's document, and `begins` says which
    tokens open one. `events` are those of the shards whose documents it begins.
    """

    tokens: np.ndarray
    place: StreamPlace
    next: StreamPlace
    events: Sequence[StreamEvent]
    ids: np.ndarray | None = None
    begins: np.ndarray | None = None


@dataclass(frozen=True)
class _Document:
    """What is left of a document's tokens, where that begins, and what happened before it."""

    tokens: np.ndarray
    place: StreamPlace
    events: Sequence[StreamEvent] = ()


class TokenStream:
    """The tokens of a stream, from any place on."""

    def __init__(self, order: StreamOrder, tokenizer: Tokenizer, edges: Edges) -> None:
        """Raise RequestError where isolated documents have neither a begin nor an end token."""
        if edges.isolated and not edges.opening and not edges.closing:
            raise RequestError(UNMARKED)
        self.order, self.tokenizer, self.edges = order, tokenizer, edges

    def steps(self, start: StreamPlace, rows: int, context: int) -> Iterator[StreamStep]:
        """Yield steps of `rows` windows; what does not fill a step at the end is left out."""
        buffer = _Buffer(self.edges)
        for document in self._documents(start):
            buffer.add(document)
            while buffer.tokens > rows * context:
                yield buffer.take(rows, context)

    def _documents(self, start: StreamPlace) -> Iterator[_Document]:
        """Yield the documents from a place on, the first without the tokens before it."""
        first, offset = start.place, start.offset
        for block in self.order.blocks(start.block):
            sizes = block.documents.sizes().tolist()
            where = StreamPlace(
                block=block.start,
                bytes=block.start.bytes + sum(sizes[:first]),
                shards_skipped=len(block.next.ends),
                rows_skipped=block.next.rows_skipped,
            )
            for place, tokens in self._encoded(block, first):
                where = replace(where, place=place, offset=offset)
                events = block.events if place == 0 and offset == 0 else ()
                yield _Document(tokens[offset:], where, events)
                where = replace(where, bytes=where.bytes + sizes[place])
                offset = 0
            first = 0
            del block  # before the next one is read

    def _encoded(self, block: Block, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the documents of a block from one on as tokens, with their places."""
        waiting, length = list[str](), 0
        for place in range(first, len(block.documents)):
            waiting.append(block.documents[place])
            length += len(waiting[-1])
            if length >= CHARACTERS or place == len(block.documents) - 1:
                yield from enumerate(self._tokens(waiting), place + 1 - len(waiting))
                waiting, length = [], 0

    def _tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return texts as tokens, each between what opens and what closes a document."""
        parts = [list(split_text(text)) for text in texts]
        encoded = iter(self.tokenizer.encode_batch([part for each in parts for part in each]))
        opening = np.asarray(self.edges.opening, np.uint32)
        closing = np.asarray(self.edges.closing, np.uint32)
        return [
            np.concatenate([opening, *(_ids(next(encoded)) for _ in each), closing])
            for each in parts
        ]


def _ids(encoded: Sequence[int]) -> np.ndarray:
    return np.asarray(encoded, np.uint32)


class _Buffer:
    """Documents whose tokens are in no window yet."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self.documents = list[_Document]()
        self.tokens = 0

    def add(self, document: _Document) -> None:
        """Put a document behind the others."""
        self.documents.append(document)
        self.tokens += len(document.tokens)

    def take(self, rows: int, context: int) -> StreamStep:
        """Return the next windows; the last target stays, as the first input behind them."""

        def cut(of: Callable[[_Document], np.ndarray]) -> np.ndarray:
            flat = np.concatenate([of(document) for document in self.documents])
            flat = flat[: rows * context + 1]
            inputs, ends = flat[:-1].reshape(rows, context), flat[context::context, None]
            return np.concatenate([inputs, ends], axis=1)  # (rows, context + 1)

        place = self.documents[0].place
        tokens, ids, begins = cut(lambda document: document.tokens), None, None
        if self.edges.isolated:
            ids, begins = cut(self._number), cut(self._begins)
        events = self._drop(rows * context)
        return StreamStep(tokens, place, self.documents[0].place, events, ids, begins)

    def _drop(self, count: int) -> list[StreamEvent]:
        """Drop the first `count` tokens; return the events of the documents that they begin."""
        self.tokens -= count
        events = list[StreamEvent]()
        while count >= len(self.documents[0].tokens):
            document = self.documents.pop(0)
            count -= len(document.tokens)
            events += document.events
        if count:
            first = self.documents[0]
            events += first.events
            place = replace(first.place, offset=first.place.offset + count)
            self.documents[0] = _Document(first.tokens[count:], place)
        return events

    def _number(self, document: _Document) -> np.ndarray:
        """Return the number of each token's document.

        An end token is the first that is read of the next document, where nothing opens one.
        """
        number = document.place.block.documents + document.place.place
        numbers = np.full(len(document.tokens), number, np.int64)
        if self.edges.closing and not self.edges.opening:
            numbers[-1:] += 1
        return numbers

    def _begins(self, document: _Document) -> np.ndarray:
        """Return which tokens open a document: nothing foretells them."""
        opening = max(0, len(self.edges.opening) - document.place.offset)
        return np.arange(len(document.tokens)) < opening
