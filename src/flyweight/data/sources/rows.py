"""A file of rows, each row a document."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import About, Document, HeldOut, Skipped, SplitName
from flyweight.data.file_kinds import FileKind
from flyweight.data.reading import normalized, part_of, pieces, split_text
from flyweight.data.rows import read_rows
from flyweight.data.splitting import split_of, split_whole
from flyweight.errors import RequestError

MANY = 10_000
"""With more rows than these, a hash of the row's number gives every split its share."""


@dataclass(frozen=True)
class RowFile:
    """Rows of one file: each is in one split, by a hash of its number.

    Few or uneven rows are each cut in three instead. `column` is the column of text; None searches
    for it. `name` is put before the row's number where the file is one of several.
    """

    path: Path
    held_out: HeldOut
    kind: FileKind
    column: str | None = None
    name: str | None = None

    @property
    def about(self) -> About:
        """A document a row, with a separator after each."""
        name = self.path.name
        return About(name, f"the rows of {name}", schema.BpeTokenizer(), separated=True)

    def _rows(self) -> Iterator[tuple[str, str | None]]:
        """Yield each row's name and text."""
        file = self.name or self.path.name
        for number, text in enumerate(read_rows(self.path, self.kind, self.column)):
            yield f"{file}/{number}", None if text is None else normalized(text)

    @cached_property
    def _cut(self) -> bool:
        """Whether rows are cut in three: whole rows would leave a split under half its share."""
        rows = list(
            itertools.islice(((name, len(text or "")) for name, text in self._rows()), MANY + 1)
        )
        if not any(length for _, length in rows):
            raise RequestError(f"{self.path} has no row with text; a corpus needs text")
        return len(rows) <= MANY and split_whole(dict(rows), self.held_out) is None

    def check(self) -> None:
        """Read all rows; raise RequestError where that is impossible or none has text."""
        for _ in self._rows():
            pass
        _ = self._cut

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield the split's rows, or its part of every row.

        Rows without text are left out of train.
        """
        for name, text in self._rows():
            if text is None:
                if split == "train":
                    yield Skipped(name, "the row has no text")
            elif self._cut:
                yield from pieces(name, split_text(part_of(text, split, self.held_out)))
            elif split_of(name, self.held_out) == split:
                yield from pieces(name, split_text(text))
