"""The shards of a stream, wherever they are: what they are called, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import PurePath
from typing import BinaryIO, Protocol

from flyweight.core.files import digest
from flyweight.data.file_kinds import FileKind, kind_by_name
from flyweight.errors import RequestError

KINDS = ".jsonl, .parquet, .csv, .tsv and .txt, packed or not"
"""What a shard may be, as a message says it."""


@dataclass(frozen=True)
class StreamShard:
    """One file: its name within the stream, its size in bytes, and a checksum.

    `checksum` is that of the beginning of a file here, or the hub's of all of it.
    """

    name: str
    bytes: int
    checksum: str

    @cached_property
    def kind(self) -> FileKind:
        """How it is read, by its name."""
        kind = kind_by_name(PurePath(self.name))
        assert kind is not None
        return kind


def is_text(name: str) -> bool:
    """Return whether a file of a dataset is a shard: notes and programs beside them are not."""
    path = PurePath(name.lower())
    kind = kind_by_name(path)
    if kind is None or kind.format == "html" or path.name.startswith(("dataset_info", ".")):
        return False
    return kind.format != "text" or path.suffix not in (".md", ".py", ".sh")


class ShardList(Protocol):
    """All shards of a stream, sorted by their names."""

    @property
    def origin(self) -> str:
        """Where they are, in words."""
        ...

    @property
    def wait(self) -> float:
        """The seconds before a shard that failed is tried again; doubled at every failure."""
        ...

    @property
    def shards(self) -> Sequence[StreamShard]:
        """The shards; at least one."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit of a hub repository; None for files of this machine."""
        ...

    def open(self, shard: StreamShard) -> AbstractContextManager[BinaryIO]:
        """Open a shard for reading; raise OSError or FlyweightError where that is impossible."""
        ...


def fingerprint(source: str, column: str, found: ShardList) -> str:
    """Return the checksum of what a stream is: its source, revision, shards and column."""
    shards = [[shard.name, shard.bytes, shard.checksum] for shard in found.shards]
    return digest(
        {"source": source, "column": column, "revision": found.revision, "shards": shards}
    )


def checked(source: str, shards: Iterator[StreamShard]) -> tuple[StreamShard, ...]:
    """Return the shards that are not empty, sorted by name.

    Raises RequestError where there are none, or one holds no text.
    """
    found = sorted(shards, key=lambda shard: shard.name)
    for shard in found:
        if kind_by_name(PurePath(shard.name)) in (None, FileKind("html")):
            raise RequestError(
                f"stream.source: {shard.name} of {source} is not a shard of text; name files of "
                f"the kinds {KINDS}"
            )
        _refuse_without_pyarrow(shard)
    full = tuple(shard for shard in found if shard.bytes)
    if not full:
        why = f"all {len(found)} shards are empty" if found else "there are no shards"
        raise RequestError(f"stream.source: {why} in {source}; name files of the kinds {KINDS}")
    return full


def _refuse_without_pyarrow(shard: StreamShard) -> None:
    needed = shard.kind.format == "parquet" or shard.kind.compression == "zstd"
    if needed and find_spec("pyarrow") is None:
        raise RequestError(f"stream.source: {shard.name} needs pyarrow: pip install pyarrow")
