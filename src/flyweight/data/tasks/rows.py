"""Rows of a task's files, each with its place: JSON lines, JSON, Parquet, and `__eou__` text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flyweight.core.files import reason
from flyweight.data.file_kinds import FileKind, kind_of, open_bytes
from flyweight.data.reading import decoded, read_blocks
from flyweight.data.rows import text_lines
from flyweight.data.tasks.schemas import Json, questions
from flyweight.errors import RequestError

TURN_END = "__eou__"
"""What ends a turn in DailyDialog's published text files, which have a dialogue a line."""

_BATCH = 256


@dataclass(frozen=True)
class PlacedRow:
    """A row's value and its place, `FILE:LINE` or `FILE, row N`.

    `fault` says why there is no value.
    """

    source: str
    value: Json
    fault: str = ""


def placed_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a file in order.

    A line that is not JSON comes with its fault. Raises RequestError for a file that cannot be
    read, is not a file of rows, or is one JSON value that is damaged.
    """
    if path.name.lower().removesuffix(".gz").endswith(".json"):
        yield from _json(path)
        return
    kind = kind_of(path)
    if kind.format == "parquet":
        yield from _parquet(path, kind)
    elif kind.format == "jsonl":
        yield from _json_lines(path, _lines(path, kind))
    elif kind.format == "text":
        yield from _dialogues(path, _lines(path, kind))
    else:
        raise RequestError(
            f"{path} is a {kind.format} file; examples are read from .jsonl, .json and .parquet: "
            f"write an object a line"
        )


def _lines(path: Path, kind: FileKind) -> Iterator[str]:
    with open_bytes(path, kind.compression) as file:
        yield from text_lines(path, decoded(path, read_blocks(path, file)))


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[PlacedRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield PlacedRow(source, None, f"it is not JSON ({_problem(error)})")
            continue
        for row in questions(value):
            yield PlacedRow(source, row)


def _json(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of one JSON value: a list, SQuAD's articles, or an object a line."""
    compression = "gzip" if path.name.lower().endswith(".gz") else None
    with open_bytes(path, compression) as file:
        text = "".join(decoded(path, read_blocks(path, file)))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        first = text.lstrip().partition("\n")[0]
        if _is_json(first):
            yield from _json_lines(path, iter(text.split("\n")))
            return
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestError(f"{path}{line}: it is not JSON ({_problem(error)})") from error
    values = value if isinstance(value, list) else [value]
    number = 0
    for each in values:
        for row in questions(each):
            number += 1
            yield PlacedRow(f"{path}, row {number}", row)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _problem(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _dialogues(path: Path, lines: Iterator[str]) -> Iterator[PlacedRow]:
    """Yield a dialogue for each line of text whose turns end in `__eou__`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        if TURN_END not in line:
            yield PlacedRow(source, None, f"no turn ends in {TURN_END}")
            continue
        turns = [turn.strip() for turn in line.split(TURN_END)]
        if not turns[-1]:
            turns.pop()
        yield PlacedRow(source, {"dialog": turns})


def _parquet(path: Path, kind: FileKind) -> Iterator[PlacedRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RequestError(
            f"{path} is Parquet, which needs pyarrow: pip install pyarrow"
        ) from error
    if kind.compression is not None:
        raise RequestError(f"{path} is Parquet packed by {kind.compression}; unpack it first")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield PlacedRow(f"{path}, row {number}", row)
    except (OSError, pyarrow.ArrowException) as error:
        raise RequestError(f"{path} is damaged or not Parquet: {reason(error)}") from error
