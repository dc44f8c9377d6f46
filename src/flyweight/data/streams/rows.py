"""The rows of one shard from any row on, in bounded memory, whatever is wrong with the shard."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from flyweight.core.files import reason
from flyweight.data.file_kinds import unpacked
from flyweight.data.reading import decoded, normalized, read_blocks
from flyweight.data.rows import encodable, parquet_kind, table_rows, text_lines
from flyweight.data.streams.shards import ShardList, StreamShard
from flyweight.errors import FlyweightError, RequestError

MOST_CHARACTERS = 1 << 26
"""Characters of a text file, which is one document and is held in memory whole."""

LONGEST_WAIT = 30.0
"""Seconds between two attempts at most."""

_BATCH = 256
_PIECE = 1 << 11

Texts = Iterator[str | None]
"""The text of each row; None for a row that has none, or is no row at all."""


class Unreadable(FlyweightError):
    """A shard that cannot be read, or not to its end."""


@dataclass(frozen=True)
class Patience:
    """How often and how long after a failure a shard is tried again.

    `tell` hears of each attempt: the row that could not be read, and why.
    """

    retries: int
    wait: float
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[int, Unreadable], None] = lambda row, error: None

    def again(self, failures: int, row: int, error: Unreadable) -> bool:
        """Wait, longer after every failure, and return True where it is worth another attempt."""
        if failures > self.retries:
            return False
        self.tell(row, error)
        self.sleep(min(LONGEST_WAIT, self.wait * 2 ** (failures - 1)))
        return True


def patient_rows(
    found: ShardList,
    shard: StreamShard,
    column: str,
    patience: Patience,
    start: int = 0,
    count: FileBytes | None = None,
) -> Iterator[tuple[int, str | None]]:
    """Yield the numbers and texts of a shard's rows from `start` on, as `rows` does.

    A row that cannot be read is tried again before Unreadable is raised.
    """
    row, failures = start, 0
    while True:
        began = row
        try:
            for text in rows(found, shard, column, row, count):
                yield row, text
                row += 1
            return
        except Unreadable as error:
            failures = 1 if row > began else failures + 1
            if not patience.again(failures, row, error):
                raise


@dataclass
class FileBytes:
    """How much of a shard its rows took so far.

    `file` bytes of it were read, which hold `unpacked` ones, of which rows took `taken`.
    """

    file: int = 0
    unpacked: int = 0
    taken: int = 0

    @property
    def read(self) -> float:
        """About how many bytes of the file the rows took."""
        return self.file * self.taken / max(1, self.unpacked)


def rows(
    found: ShardList,
    shard: StreamShard,
    column: str,
    start: int = 0,
    count: FileBytes | None = None,
) -> Texts:
    """Yield the text of a shard's rows from row number `start` on.

    A row that is not JSON, or without text in `column`, is None. Raises Unreadable where the shard
    cannot be opened, ends early, or has another schema: no such column in its first row. `count`
    learns how much of the file was read.
    """
    count = FileBytes() if count is None else count
    count.file = count.unpacked = count.taken = 0
    try:
        with found.open(shard) as file:
            yield from _rows(shard, file, column, start, count)
    except Unreadable:
        raise
    except (FlyweightError, OSError, EOFError, ValueError, csv.Error) as error:
        why = reason(error).removeprefix(f"{shard.name}: ").removeprefix(f"{shard.name} ")
        raise Unreadable(f"{shard.name}: {why}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] == "builtins":
            raise  # a fault of the program; what is left are errors of the network and of Parquet
        raise Unreadable(f"{shard.name}: {type(error).__name__}: {reason(error)}") from error


def _rows(shard: StreamShard, file: BinaryIO, column: str, start: int, count: FileBytes) -> Texts:
    if shard.kind.format == "parquet":
        yield from _parquet(shard, file, column, start, count)
        return
    path = Path(shard.name)
    counted = cast(BinaryIO, _Counted(file, count))
    raw = read_blocks(path, unpacked(path, counted, shard.kind.compression))
    blocks = decoded(path, _unpacked(raw, count))
    if shard.kind.format == "text":
        yield from _document(_taken(blocks, count)) if start == 0 else ()
        return
    lines = _taken(text_lines(path, blocks), count)
    if shard.kind.format == "jsonl":
        yield from _json_lines(lines, column, start)
    else:
        tabs = shard.kind.format == "tsv"
        for number, text in enumerate(table_rows(path, lines, tabs, column)):
            if number >= start:
                yield None if text is None else normalized(text)


def _unpacked(blocks: Iterator[bytes], count: FileBytes) -> Iterator[bytes]:
    """Yield blocks, which are counted."""
    for block in blocks:
        count.unpacked += len(block)
        yield block


def _taken(texts: Iterator[str], count: FileBytes) -> Iterator[str]:
    """Yield texts, whose bytes are counted."""
    for text in texts:
        count.taken += len(text.encode())
        yield text


class _Counted:
    """A file that counts what is read of it, in small pieces: so the count tells where it is."""

    def __init__(self, file: BinaryIO, count: FileBytes) -> None:
        self._file, self._count = file, count

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        found = self._file.read(_PIECE if size < 0 or size > _PIECE else size)
        self._count.file += len(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _document(blocks: Iterator[str]) -> Texts:
    """Yield the only document of a text file."""
    parts, length = list[str](), 0
    for block in blocks:
        parts.append(block)
        length += len(block)
        if length > MOST_CHARACTERS:
            raise RequestError(
                f"a text file is one document of a stream, and this has over {MOST_CHARACTERS:,} "
                "characters; write its parts as rows of JSON"
            )
    yield "".join(parts)


def _json_lines(lines: Iterator[str], column: str, start: int) -> Texts:
    number = 0
    for line in lines:
        if not line.strip():
            continue
        if number >= start:
            yield _json_text(line, column, first=number == 0)
        number += 1


def _json_text(line: str, column: str, first: bool) -> str | None:
    """Return the text of one line; None where it has none.

    The first line of a shard decides whether the shard is one of this stream.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        if first:
            raise RequestError(f"line 1 is not JSON ({reason(error)})") from error
        return None
    if first and isinstance(row, dict) and column not in row:
        raise RequestError(_other_schema(column, list(row)))
    if first and not isinstance(row, dict):
        raise RequestError("line 1 is not an object with columns")
    text = row.get(column) if isinstance(row, dict) else None
    if first and text is not None and not isinstance(text, str):
        raise RequestError(f"column {column!r} is not text")
    return normalized(text) if isinstance(text, str) and encodable(text) else None


def _other_schema(column: str, names: list[str]) -> str:
    return f"another schema: no column {column!r}, only {', '.join(names[:20])}"


def _parquet(
    shard: StreamShard, file: BinaryIO, column: str, start: int, count: FileBytes
) -> Texts:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    kinds = {field.name: parquet_kind(field.type) for field in table.schema_arrow}
    if column not in kinds:
        raise RequestError(_other_schema(column, list(kinds)))
    if kinds[column] is not None:
        raise RequestError(f"column {column!r} is {kinds[column]}, not text")
    passed = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if passed + size > start:
            count.file, count.unpacked = shard.bytes, table.metadata.num_rows
            batches = table.iter_batches(_BATCH, [group], [column], use_threads=False)
            for text in _of_group(batches, start - passed):
                count.taken += 1
                yield text
        passed += size


def _of_group(batches: Iterator[object], skipped: int) -> Texts:
    """Yield the texts of a row group's batches, without the first `skipped`."""
    number = 0
    for batch in batches:
        for text in batch.column(0).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
            if number >= skipped:
                yield None if text is None else normalized(text)
            number += 1
