"""The order in which the documents of a stream are learned, from any place on.

Shards come in an order of (seed, epoch). Their training documents are read one after another into
blocks, and those of a block come in an order of (seed, block). So a place is a few numbers: the
block is read again from its first row, and everything behind the place is the same again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import overload

import numpy as np

from flyweight.config.stream import Stream
from flyweight.data.document import HeldOut
from flyweight.data.streams.held_out import shares, split_of_row
from flyweight.data.streams.rows import Patience, Unreadable, patient_rows
from flyweight.data.streams.shards import ShardList, StreamShard
from flyweight.errors import FlyweightError

BLOCK_BYTES = 1 << 26
"""Bytes of text after which a block ends, however many documents it has: it is held in memory."""

PIECE = 1 << 20
"""Bytes of memory in which texts of a block stand."""

_SHARDS, _BLOCK = 1, 2
"""Tell the numbers that are drawn here from others of the same seed."""


@dataclass(frozen=True)
class BlockStart:
    """Where a block begins: its number, its first row, and what was read before it.

    `shard` is a place in the order of `epoch`. `documents`, `bytes` (of text) and `rows_skipped`
    (without text) are counts. `ends` are the shards that could not be read to their end, with the
    number of rows that could: they end there for the rest of the training.
    """

    epoch: int = 0
    shard: int = 0
    row: int = 0
    block: int = 0
    documents: int = 0
    bytes: int = 0
    rows_skipped: int = 0
    ends: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class StreamEvent:
    """What happened to a shard, to be told when the training comes to that place."""

    kind: str
    fields: Mapping[str, object]


class Documents(Sequence[str]):
    """Texts in a few pieces of memory, all of one size: what one block frees, the next one takes.

    Many small ones, or one that grows, would leave holes in between, and memory would grow with the
    stream. `places` are the piece, the first byte and the last (exclusive) of each text.
    """

    def __init__(
        self,
        pieces: Sequence[bytearray],
        places: Sequence[tuple[int, int, int]],
        order: np.ndarray,
    ) -> None:
        self._pieces, self._order = pieces, order
        self._places = np.asarray(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one text, or several."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        piece, start, stop = self._places[self._order[index]]
        return self._pieces[piece][start:stop].decode()

    def sizes(self) -> np.ndarray:
        """Return the bytes of each text."""
        return (self._places[:, 2] - self._places[:, 1])[self._order]


@dataclass(frozen=True)
class Block:
    """Documents in the order in which they are learned, and where the next block begins."""

    start: BlockStart
    documents: Documents
    next: BlockStart
    events: Sequence[StreamEvent]


class StreamOrder:
    """The blocks of a stream for process `rank` of `world`, which takes every world-th row."""

    def __init__(
        self,
        stream: Stream,
        found: ShardList,
        seed: int,
        rank: int = 0,
        world: int = 1,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.stream, self.found, self.seed = stream, found, seed
        self.rank, self.world = rank, world
        self._sleep = sleep
        self._held_out: HeldOut = shares(stream, found)

    def blocks(self, start: BlockStart | None = None) -> Iterator[Block]:
        """Yield the blocks from `start` on, to the end of the last epoch.

        Raises FlyweightError where more shards are bad than may be, or one that was read before
        no longer gives as many rows.
        """
        begin = start or BlockStart()
        while begin.epoch < self.stream.epochs:
            block = self._block(begin)
            begin = block.next
            if block.documents:
                yield block
            del block  # before the next one is read

    def _shards(self, epoch: int) -> list[StreamShard]:
        """Return all shards in the order of an epoch."""
        order = np.random.default_rng([self.seed, _SHARDS, epoch]).permutation(
            len(self.found.shards)
        )
        return [self.found.shards[place] for place in order]

    def _block(self, start: BlockStart) -> Block:
        """Read one block: it ends where it is full, or with the epoch."""
        shards = self._shards(start.epoch)
        reading = _Reading(self, start)
        for place in range(start.shard, len(shards)):
            first = start.row if place == start.shard else 0
            for row in reading.documents(shards[place], first):
                if reading.full:
                    return self._shuffled(reading, replace(start, shard=place, row=row + 1))
        return self._shuffled(reading, replace(start, epoch=start.epoch + 1, shard=0, row=0))

    def _shuffled(self, reading: _Reading, end: BlockStart) -> Block:
        start, count = reading.start, len(reading.places)
        order = np.random.default_rng([self.seed, _BLOCK, start.block]).permutation(count)
        following = replace(
            end,
            block=start.block + 1,
            documents=start.documents + count,
            bytes=start.bytes + reading.bytes,
            rows_skipped=start.rows_skipped + reading.rows_skipped,
            ends=reading.ends,
        )
        documents = Documents(reading.pieces, reading.places, order)
        return Block(start, documents, following, reading.events)

    def rows(
        self, shard: StreamShard, first: int, tell: Callable[[int, Unreadable], None]
    ) -> Iterator[tuple[int, str | None]]:
        """Yield the rows of a shard from one on; `tell` hears of every further attempt."""
        patience = Patience(self.stream.retries, self.found.wait, self._sleep, tell)
        yield from patient_rows(self.found, shard, self.stream.text, patience, first)

    def is_learned(self, shard: StreamShard, row: int) -> bool:
        """Return whether this process learns a row of a shard."""
        if row % self.world != self.rank:
            return False
        return split_of_row(shard.name, row, self._held_out) == "train"


class _Reading:
    """A block while it is read."""

    def __init__(self, order: StreamOrder, start: BlockStart) -> None:
        self.order, self.start = order, start
        self.ends = dict(start.ends)
        self.pieces = list[bytearray]()
        self.places = list[tuple[int, int, int]]()
        self.bytes = self.rows_skipped = 0
        self._filled = 0
        self.events = list[StreamEvent]()

    @property
    def full(self) -> bool:
        """Whether the block has as many documents as it may have."""
        return len(self.places) >= self.order.stream.shuffle or self.bytes >= BLOCK_BYTES

    def documents(self, shard: StreamShard, first: int) -> Iterator[int]:
        """Read a shard's documents into the block from a row on; yield the number of each row."""
        for row, text in self._rows(shard, first):
            if not self.order.is_learned(shard, row):
                continue
            if not text:
                self.rows_skipped += 1
                continue
            self._add(text.encode())
            yield row

    def _add(self, raw: bytes) -> None:
        """Put a text behind the others, in a new piece where the last one has no room."""
        if not self.pieces or self._filled + len(raw) > len(self.pieces[-1]):
            self.pieces.append(bytearray(max(PIECE, len(raw))))
            self._filled = 0
        stop = self._filled + len(raw)
        self.pieces[-1][self._filled : stop] = raw
        self.places.append((len(self.pieces) - 1, self._filled, stop))
        self.bytes += len(raw)
        self._filled = stop

    def _rows(self, shard: StreamShard, first: int) -> Iterator[tuple[int, str | None]]:
        """Yield the rows of a shard with their numbers, up to where it could be read before."""
        following, end = first, self.ends.get(shard.name)
        if end is not None and first >= end:
            return
        try:
            for row, text in self.order.rows(shard, first, partial(self._tell_again, shard)):
                if row == end:
                    return
                yield row, text
                following = row + 1
            if end is not None and following < end:
                raise Unreadable(f"{shard.name} ends at row {following}")
        except Unreadable as error:
            if end is None:
                self._skip(shard, following, error)
            elif following < end:
                raise FlyweightError(
                    f"{error}; this training has read {end} rows of it before and cannot go on "
                    "without them: put the shard back, or start anew"
                ) from error

    def _skip(self, shard: StreamShard, row: int, error: Unreadable) -> None:
        """Leave out the rest of a shard; raise FlyweightError where those are too many."""
        self.ends[shard.name] = row
        self._tell("shard_skipped", shard, row, error)
        if fault := too_many(self.order.stream, len(self.ends), len(self.order.found.shards)):
            last = str(error).rstrip(".")
            raise FlyweightError(f"stream: {fault[0]}; the last: {last}. {fault[1]}")

    def _tell_again(self, shard: StreamShard, row: int, error: Unreadable) -> None:
        self._tell("shard_retried", shard, row, error)

    def _tell(self, kind: str, shard: StreamShard, row: int, error: Unreadable) -> None:
        self.events.append(StreamEvent(kind, {"shard": shard.name, "row": row, "why": str(error)}))


def too_many(stream: Stream, bad: int, whole: int) -> tuple[str, str] | None:
    """Return what is wrong where more shards cannot be read than may be, and what to do."""
    if bad <= stream.bad_shards * whole * (1 + 1e-9):
        return None
    enough = math.ceil(100 * bad / whole) / 100  # rounded down it would not be enough
    return (
        f"{bad} of {whole} shards cannot be read, and stream.bad_shards allows "
        f"{stream.bad_shards:.3g} of them",
        f"Mend or remove it, or allow more (stream.bad_shards={enough:g})",
    )
