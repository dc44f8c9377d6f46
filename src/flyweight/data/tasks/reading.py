"""Reading a task: its rows become examples, and what cannot be used is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from flyweight.config.messages import nearest
from flyweight.data.document import SPLITS
from flyweight.data.tasks.example import DroppedRow, Example, Examples, TaskKind
from flyweight.data.tasks.files import split_files, task_rows
from flyweight.data.tasks.rows import PlacedRow, placed_rows
from flyweight.data.tasks.schemas import BadRowError, example_of, kind_of_row
from flyweight.errors import RequestError

_LISTED = 5

IN_SCORES = "bad_rows={count} (--bad-rows {count})"
IN_DATA = "data.bad_rows={count}"
"""How a user lets rows be left out: where answers are scored, and where a training reads them."""

_ROWS = re.compile(
    r"\.(jsonl|ndjson)(\.(gz|bz2|xz|zst))?$|\.json(\.gz)?$|\.parquet$", re.IGNORECASE
)
"""Ends of the names of files that can have rows of examples."""

_LOOKED_AT = 20
"""Rows of a file that are looked at to tell examples from text."""


def holds_examples(path: Path) -> bool:
    """Return whether a file has rows of prompts with completions, by its first rows.

    Rows of text, and what is not a file of rows, are not examples. A folder has them where a file
    for one of its splits has.
    """
    if path.is_dir():
        try:
            files = split_files(path)
            return any(holds_examples(file) for paths in files.values() for file in paths)
        except (RequestError, OSError):  # a folder of texts, whose reader says what is wrong
            return False
    if not _ROWS.search(path.name) or not path.is_file():
        return False
    for row in islice(placed_rows(path), _LOOKED_AT):
        try:
            kind_of_row(row.value)
        except BadRowError:
            continue
        return True
    return False


def read_examples(
    task: str,
    split: str,
    data_dir: Path | None = None,
    bad_rows: int = 0,
    field: str = IN_SCORES,
) -> Examples:
    """Return one split of a task as examples.

    `task` is one of TASKS, a file of rows (JSON lines, JSON, Parquet) or a folder with a file for
    each split. `data_dir` has local copies; without one, a named task comes from the hub. Rows that
    cannot be used are left out up to `bad_rows` of them; `field` is how messages call that number.
    Raises RequestError with file and line where there are more, where the split has no row left,
    and for a task or split that is not there.
    """
    for name in SPLITS:
        if name == split:
            where, kind = task_rows(task, data_dir)
            break
    else:
        raise RequestError(
            f"split: {split!r} is not one of {', '.join(SPLITS)}{nearest(split, SPLITS)}"
        )
    read = _Reading(task, kind)
    for row in where.rows(name):
        read.add(row)
    if len(read.dropped) > bad_rows:
        rows = len(read.dropped) + len(read.examples)
        raise RequestError(too_many(task, read.dropped, rows, bad_rows, field))
    examples, division = where.choose(name, read.examples)
    if not examples or read.kind is None:
        named = task if task == where.origin else f"{task} ({where.origin})"
        raise RequestError(
            f"{named}: no example is left for the {split} split ({_could_be_read(read)}); add rows"
        )
    return Examples(
        task=task,
        kind=read.kind,
        split=split,
        rows=tuple(examples),
        dropped=tuple(read.dropped),
        origin=where.origin,
        division=division,
    )


class _Reading:
    """Rows made into examples one after another; the first good row says what kind they are."""

    def __init__(self, task: str, kind: TaskKind | None) -> None:
        self.task = task
        self.kind: TaskKind | None = kind
        self.examples: list[Example] = []
        self.dropped: list[DroppedRow] = []

    def add(self, row: PlacedRow) -> None:
        """Read one row; note why it cannot be used."""
        try:
            if row.fault:
                raise BadRowError(row.fault)
            kind = self.kind or kind_of_row(row.value)
            self.examples.append(example_of(row.value, kind, row.source))
            self.kind = kind
        except BadRowError as error:
            self.dropped.append(DroppedRow(row.source, str(error)))


def _could_be_read(read: _Reading) -> str:
    rows = len(read.examples)
    return "1 row could be read" if rows == 1 else f"{rows} rows could be read"


def too_many(
    task: str,
    dropped: Sequence[DroppedRow],
    rows: int,
    limit: int,
    field: str,
    advice: str = "repair them",
) -> str:
    """Return the message for more bad rows than allowed: the first, how many, and what to do.

    Leaving rows out, by `field`, is advised only where some are left.
    """
    count = len(dropped)
    first = "; ".join(f"{row.source}: {row.reason}" for row in dropped[:_LISTED])
    more = f"; and {count - _LISTED} more" if count > _LISTED else ""
    allowed = f", and bad_rows allows {limit}" if limit else ""
    allowance = "" if count == rows else f", or leave them out with {field.format(count=count)}"
    return (
        f"{task}: {count} of {rows} rows cannot be used{allowed}. {first}{more}. "
        f"{advice[0].upper()}{advice[1:]}{allowance}"
    )
