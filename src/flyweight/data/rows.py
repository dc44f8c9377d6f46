"""Files of rows (CSV, TSV, JSON lines, Parquet), read in bounded memory.

The text column of each row is a document.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flyweight.core.files import reason
from flyweight.data.file_kinds import FileKind, open_bytes
from flyweight.data.reading import decoded, read_blocks
from flyweight.errors import RequestError

TEXT = "text"
"""The column that is read where none is named."""
_PEEK = 100
_LONGEST_ROW = 1 << 28
"""The most characters of a row, which is held in memory whole, several times over."""
_BATCH = 256

Rows = Iterator[str | None]
"""A row's text, or None where it has none."""


def read_rows(path: Path, kind: FileKind, column: str | None) -> Rows:
    """Yield the text of each row; None for a row without text.

    `column` names the column; else it is `text`, or the only column of text. Raises RequestError
    with file and line for what cannot be read, and with the columns there are.
    """
    if kind.format == "parquet":
        yield from _parquet(path, kind, column)
        return
    with open_bytes(path, kind.compression) as file:
        lines = text_lines(path, decoded(path, read_blocks(path, file)))
        if kind.format == "jsonl":
            yield from _json_lines(path, lines, column)
        else:
            yield from table_rows(path, lines, kind.format == "tsv", column)


def choose_column(where: object, kinds: Mapping[str, str | None], column: str | None) -> str:
    """Return the column of text among `kinds`: each column's kind where it is not text, else None.

    Raises RequestError with the columns there are where `column` is not among them or none is
    clear.
    """
    listed = ", ".join(f"{name} ({kind})" if kind else name for name, kind in kinds.items())
    listed = listed or "none"
    if column is not None:
        if column not in kinds:
            raise RequestError(
                f"{where} has no column {column!r}, only {listed}; name one: data.column=NAME"
            )
        if kinds[column] is not None:
            raise RequestError(f"{where}: column {column!r} is not text; the columns are {listed}")
        return column
    texts = [name for name, kind in kinds.items() if kind is None]
    if TEXT in texts:
        return TEXT
    if len(texts) == 1:
        return texts[0]
    problem = "several are text and none is called `text`" if texts else "none of them is text"
    raise RequestError(
        f"{where}: which column is the corpus? It has {listed}: {problem}; name one: "
        f"data.column=NAME"
    )


def text_lines(path: Path, blocks: Iterable[str]) -> Iterator[str]:
    """Yield lines with their LF; other line separators are characters like any other."""
    waiting: list[str] = []
    length, number = 0, 1
    for block in blocks:
        start = 0
        while (end := block.find("\n", start)) >= 0:
            yield "".join([*waiting, block[start : end + 1]])
            waiting, length, start, number = [], 0, end + 1, number + 1
        if start < len(block):
            waiting.append(block[start:])
            length += len(block) - start
            _refuse_longer(path, number, length)
    if waiting:
        yield "".join(waiting)


def _refuse_longer(path: Path, line: int, characters: int) -> None:
    if characters > _LONGEST_ROW:
        raise RequestError(
            f"{path}, line {line}: a row of more than {_LONGEST_ROW:,} characters, and each is "
            f"held in memory"
            " whole; split the row, or save its text as a .txt file"
        )


def _json_lines(path: Path, lines: Iterator[str], column: str | None) -> Rows:
    """Yield the text of objects, one a line; a line may also be the text itself, as a string."""
    rows = _objects(path, lines)
    head = list(itertools.islice(rows, _PEEK))
    objects = [row for _, row in head if isinstance(row, dict)]
    name = choose_column(path, _kinds(objects), column) if objects else TEXT
    for number, row in itertools.chain(head, rows):
        value = row.get(name) if isinstance(row, dict) else row
        if value is not None and not isinstance(value, str):
            raise RequestError(
                f"{path}, line {number}: {name!r} is {_kind(value)}, not text; rewrite it as a "
                f"string"
            )
        if value is not None and not encodable(value):
            raise RequestError(
                f"{path}, line {number}: {name!r} holds half a surrogate pair, "
                f"which is not a character"
            )
        yield value


def encodable(text: str) -> bool:
    """Return whether UTF-8 can hold a text: it has no half of a surrogate pair."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _objects(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise RequestError(
                f"{path}, line {number} is not JSON ({problem}); an object a line is needed, for "
                f"example from jq -c . {path.name}"
            ) from error


def _kinds(objects: Sequence[Mapping[str, object]]) -> dict[str, str | None]:
    """Return the keys of objects in order, with the kind of those that hold anything but text."""
    kinds: dict[str, str | None] = {}
    for row in objects:
        for key, value in row.items():
            if value is not None and kinds.get(key) is None:
                kinds[key] = None if isinstance(value, str) else _kind(value)
            else:
                kinds.setdefault(key, None)
    return kinds


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"


def table_rows(path: Path, lines: Iterator[str], tabs: bool, column: str | None) -> Rows:
    """Yield a column of a table whose first line names the columns."""
    first = next(lines, "")
    # Spreadsheets write semicolons where the comma is the decimal mark.
    delimiter = "\t" if tabs else max(",;\t", key=first.count)
    csv.field_size_limit(
        2 * _LONGEST_ROW
    )  # the default refuses fields of 128 KiB; rows are limited below
    begun = read = 0  # the line that a row begins on, and the row's characters so far

    def counted() -> Iterator[str]:
        nonlocal read
        for line in itertools.chain([first], lines):
            read += len(line)
            _refuse_longer(path, begun + 1, read)  # quoted fields may go on over many lines
            yield line

    reader = csv.reader(counted(), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        at = header.index(choose_column(path, dict.fromkeys(header), column))
        begun, read = reader.line_num, 0
        for row in reader:
            begun, read = reader.line_num, 0
            if not row:
                continue
            if len(row) > len(header):
                raise RequestError(
                    f"{path}, line {reader.line_num}: {len(row)} fields under {len(header)} "
                    f"columns;"
                    f" put fields that hold {_DELIMITERS[delimiter]} in double quotes"
                )
            yield row[at] if at < len(row) else None
    except csv.Error as error:
        raise RequestError(
            f"{path}, line {reader.line_num}: {error}; quotes in a quoted field are doubled,"
            " and plain text is read from a .txt file"
        ) from error


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _parquet(path: Path, kind: FileKind, column: str | None) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RequestError(
            f"{path} is Parquet, which needs pyarrow: pip install pyarrow"
        ) from error
    if kind.compression is not None:
        raise RequestError(f"{path} is Parquet packed by {kind.compression}; unpack it first")
    try:
        with parquet.ParquetFile(path) as file:
            kinds = {field.name: parquet_kind(field.type) for field in file.schema_arrow}
            name = choose_column(path, kinds, column)
            for batch in file.iter_batches(_BATCH, columns=[name]):
                yield from batch.column(0).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise RequestError(f"{path} is damaged or not Parquet: {reason(error)}") from error


def parquet_kind(kind: Any) -> str | None:
    """Return the name of a column's type; None where it is text."""
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    return None if text else str(kind)
