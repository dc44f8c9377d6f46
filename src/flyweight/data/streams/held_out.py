"""Which documents of a stream are held out, and what is packed of it before any training.

A hash of (shard, row) decides, so that every training with these sizes holds out the same
documents, whatever its seed. How large a share of all rows is held out follows from the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.config.units import format_size
from flyweight.data.document import SPLITS, About, Document, HeldOut, Skipped, SplitName
from flyweight.data.reading import pieces, split_text
from flyweight.data.splitting import split_of
from flyweight.data.streams.rows import FileBytes, Patience, Unreadable, patient_rows
from flyweight.data.streams.shards import ShardList, StreamShard
from flyweight.errors import RequestError

LEAST, MOST = 0.01, 0.25
"""Shares of all rows that each held-out split takes at least and at most.

With less than the first, a hundred times the text would be read to find it.
"""

SPREAD = 16
"""Shards, evenly spread over the stream, that the packed splits are taken from."""


def shares(stream: Stream, found: ShardList) -> HeldOut:
    """Return the shares of all rows that are held out for validation and test.

    They are twice what the sizes ask for, as if files were text: so they are found before all is
    read. Raises RequestError where they would leave less than half of the stream, of which packed
    files are taken for twice as much text.
    """
    whole = sum(shard.bytes for shard in found.shards)
    packed = found.shards[0].kind.compression is not None
    if stream.validation + stream.test > (whole if packed else whole / 2):
        raise RequestError(
            f"stream: {format_size(stream.validation)} for validation and "
            f"{format_size(stream.test)} for test are more than half of {stream.source}, whose "
            f"shards have {format_size(whole)}; hold out less (stream.validation, stream.test)"
        )

    def share(size: int) -> float:
        return min(MOST, max(LEAST, 2 * size / whole))

    return HeldOut(share(stream.validation), share(stream.test))


def split_of_row(shard: str, row: int, held_out: HeldOut) -> SplitName:
    """Return the split of a row of a shard."""
    return split_of(f"{shard}/{row}", held_out)


@dataclass
class _Taken:
    """What is taken of the documents of one split: so many bytes of `wanted`."""

    wanted: int
    documents: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    bytes: int = 0

    def due(self, before: int, left: int) -> bool:
        """Return whether a shard still gives some, of which `left` are to give their parts."""
        return self.bytes < self.wanted and self.bytes - before <= (self.wanted - before) / left

    def add(self, name: str, text: str) -> None:
        """Take a document."""
        self.documents.append((name, text))
        self.bytes += len(text.encode())


@dataclass
class _Seen:
    """What was read: bytes of text and of files, and how many shards to their end."""

    text: int = 0
    file: float = 0.0
    whole: int = 0


@dataclass(frozen=True)
class StreamSample:
    """A source of text: the held-out documents of a stream, and a sample of the others."""

    stream: Stream
    found: ShardList

    @property
    def about(self) -> About:
        """A document a row, with a separator after each."""
        name = self.stream.source
        return About(
            name, f"a stream: {name} of {self.found.origin}", schema.BpeTokenizer(), separated=True
        )

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield the documents of a split; train names the shards that could not be read."""
        taken, bad, _ = self._taken
        if split == "train":
            yield from bad
        for name, text in taken[split].documents:
            yield from pieces(name, split_text(text))

    @cached_property
    def _taken(self) -> tuple[dict[SplitName, _Taken], list[Skipped], _Seen]:
        """The documents of all splits, which are found in one reading, and the bad shards."""
        stream, held_out = self.stream, shares(self.stream, self.found)
        taken: dict[SplitName, _Taken] = {
            "train": _Taken(stream.sample),
            "validation": _Taken(stream.validation),
            "test": _Taken(stream.test),
        }
        bad, seen = list[Skipped](), _Seen()
        first = _spread(self.found.shards)
        rest = [shard for shard in self.found.shards if shard not in first]
        for place, shard in enumerate([*first, *rest]):
            left = max(1, len(first) - place)
            try:
                self._take(shard, taken, held_out, left, seen)
            except Unreadable as error:
                bad.append(Skipped(shard.name, str(error).removeprefix(f"{shard.name}: ")))
        if not taken["train"].documents and bad:
            raise RequestError(
                f"stream.source: no shard can be read: {bad[0].name}: {bad[0].reason}; name "
                "other shards, or another column of theirs (stream.text)"
            )
        return taken, bad, seen

    def facts(self) -> dict[str, Any]:
        """Return what is known of the stream now: shards, bytes, and about how much text it has.

        `text_bytes` are those that a training learns from in one epoch: `exact` where all of the
        stream was read, else by the packed bytes that the text which was read took. `unreadable`
        are the shards that could not be read then.
        """
        taken, bad, seen = self._taken
        shards = self.found.shards
        whole = sum(shard.bytes for shard in shards)
        held_out = shares(self.stream, self.found)
        exact = seen.whole == len(shards)
        learned = taken["train"].bytes
        if not exact:
            share = 1 - held_out.validation - held_out.test
            learned = round(whole * seen.text / max(1.0, seen.file) * share)
        return {
            "source": self.stream.source,
            "revision": self.found.revision,
            "shards": len(shards),
            "unreadable": [each.name for each in bad],
            "bytes": whole,
            "text_bytes": learned,
            "exact": exact,
            "held_out": [held_out.validation, held_out.test],
        }

    def _take(
        self,
        shard: StreamShard,
        taken: dict[SplitName, _Taken],
        held_out: HeldOut,
        left: int,
        seen: _Seen,
    ) -> None:
        """Take one shard's part of every split."""
        before = {name: taken[name].bytes for name in SPLITS}
        due: set[SplitName] = {name for name in SPLITS if taken[name].due(before[name], left)}
        if not due:
            return
        patience, count = Patience(self.stream.retries, self.found.wait), FileBytes()
        for row, text in patient_rows(self.found, shard, self.stream.text, patience, count=count):
            if not text:
                continue
            seen.text += len(text.encode())
            split = split_of_row(shard.name, row, held_out)
            if split in due:
                taken[split].add(f"{shard.name}/{row}", text)
                due = {name for name in due if taken[name].due(before[name], left)}
            if not due:
                break
        seen.file += count.read
        seen.whole += "train" in due


def _spread(shards: Sequence[StreamShard]) -> list[StreamShard]:
    """Return at most SPREAD shards, evenly over all."""
    count = min(SPREAD, len(shards))
    return [shards[place * len(shards) // count] for place in range(count)]
