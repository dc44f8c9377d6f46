"""Text from the Hugging Face hub through `datasets` (extra `hub`), imported when first needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flyweight.config import schema
from flyweight.data.document import About, Document, HeldOut, SplitName
from flyweight.data.reading import BLOCK, normalized, part_of, pieces, split_text
from flyweight.data.rows import choose_column
from flyweight.data.sources.local import VARIABLE
from flyweight.data.splitting import split_of
from flyweight.errors import RequestError

_NAMES: dict[str, SplitName] = {
    **{"train": "train", "training": "train"},
    **{"validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"},
    "test": "test",
}
_FEW_ROWS = 100
_NETWORK = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp"}
_URL = "hf://datasets/{repository}@{revision}/{path}"


def _load(what: str, *arguments: Any, **options: Any) -> Any:
    """Call `datasets.load_dataset`.

    Raises RequestError where the library, the network or the dataset is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise RequestError(
            f"{what} comes from the hub, which needs the `datasets` package: pip install "
            f'"flyweight[hub]"; or put a local copy in a folder and name it with --data-dir or '
            f"{VARIABLE}"
        ) from error
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:
        # A missing repository, config or file and refused scripts come as the first three; without
        # a network, the HTTP library's own errors come through, and which library that is changes
        # with the version.
        if (
            not isinstance(error, OSError | ValueError | RuntimeError)
            and type(error).__module__.split(".")[0] not in _NETWORK
        ):
            raise
        raise RequestError(
            f"{what} could not be read from the hub ({type(error).__name__}: {error}); check the "
            "name and the network, or put a local copy in a folder and name it with --data-dir or "
            f"{VARIABLE}"
        ) from error


@dataclass(frozen=True)
class Parquet:
    """Parquet files of a hub repository at a fixed revision: no script, no guessing."""

    repository: str
    revision: str
    files: str
    column: str

    @property
    def address(self) -> str:
        """The repository and its revision."""
        return f"hf:{self.repository} at {self.revision}"

    def rows(self, corpus: str, split: SplitName) -> Iterator[str]:
        """Yield the text column of one split, row by row."""
        path = self.files.format(split=split)
        url = _URL.format(
            repository=self.repository, revision=self.revision.replace("/", "%2F"), path=path
        )
        table = _load(
            f"{corpus} (hf:{self.repository})", "parquet", data_files={split: url}, split=split
        )
        if self.column not in table.column_names:
            raise RequestError(
                f"{corpus}: {url} has no column {self.column!r}, only "
                f"{', '.join(table.column_names)}"
            )
        yield from _texts(table, self.column)


@dataclass(frozen=True)
class HubRows:
    """Whole rows of a hub repository's Parquet files, for the splits that it has."""

    repository: str
    revision: str
    files: str
    splits: tuple[SplitName, ...]

    @property
    def address(self) -> str:
        """The repository and its revision."""
        return f"hf:{self.repository} at {self.revision}"

    def rows(self, task: str, split: SplitName) -> Iterator[dict[str, Any]]:
        """Yield the rows of one split.

        Raises RequestError where it cannot be read.
        """
        url = _URL.format(
            repository=self.repository,
            revision=self.revision.replace("/", "%2F"),
            path=self.files.format(split=split),
        )
        yield from _load(
            f"{task} ({self.address})", "parquet", data_files={split: url}, split=split
        )


def _texts(table: Any, column: str) -> Iterator[str]:
    for batch in table.select_columns([column]).iter(batch_size=1000):
        yield from (normalized(text or "") for text in batch[column])


def joined(rows: Iterable[str]) -> Iterator[str]:
    """Yield rows joined to pieces of about BLOCK characters; a row alone is too short a piece."""
    waiting: list[str] = []
    length = 0
    for row in rows:
        waiting.append(row)
        length += len(row)
        if length >= BLOCK:
            yield "".join(waiting)
            waiting, length = [], 0
    yield "".join(waiting)


@dataclass(frozen=True)
class HubText:
    """Any dataset with a text column, each row a document.

    A split that it lacks is taken from its train rows, by a hash of the row's number. With under
    100 rows, it is taken from the end of every row's text.
    """

    repository: str
    config: str | None
    held_out: HeldOut
    column: str | None = None

    @property
    def name(self) -> str:
        """The dataset as the user names it."""
        return f"hf:{self.repository}" + (f":{self.config}" if self.config else "")

    @property
    def about(self) -> About:
        """A document a row, with a separator after each."""
        return About(self.name, self.name, schema.BpeTokenizer(), separated=True)

    @cached_property
    def _tables(self) -> Mapping[SplitName, Any]:
        loaded = _load(self.name, self.repository, self.config)
        tables: dict[SplitName, Any] = {
            _NAMES[split]: table for split, table in loaded.items() if split in _NAMES
        }
        if "train" not in tables:
            raise RequestError(f"{self.name} has no train split, only {', '.join(loaded)}")
        return tables

    @cached_property
    def _column(self) -> str:
        features: Mapping[str, Any] = self._tables["train"].features
        dtypes = {
            name: getattr(kind, "dtype", None) or type(kind).__name__
            for name, kind in features.items()
        }
        kinds = {
            name: None if kind in ("string", "large_string") else kind
            for name, kind in dtypes.items()
        }
        return choose_column(self.name, kinds, self.column)

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split's rows."""
        if split != "train" and split in self._tables:
            for number, text in enumerate(_texts(self._tables[split], self._column)):
                yield from pieces(f"{split}/{number}", split_text(text))
            return
        # Only what the dataset lacks is held out of its train rows.
        held_out = HeldOut(
            0.0 if "validation" in self._tables else self.held_out.validation,
            0.0 if "test" in self._tables else self.held_out.test,
        )
        table = self._tables["train"]
        few = len(table) < _FEW_ROWS and held_out != HeldOut(0.0, 0.0)
        for number, text in enumerate(_texts(table, self._column)):
            name = f"train/{number}"
            if few:
                yield from pieces(name, split_text(part_of(text, split, held_out)))
            elif split_of(name, held_out) == split:
                yield from pieces(name, split_text(text))


def open_dataset(name: str, held_out: HeldOut, column: str | None = None) -> HubText:
    """Return `hf:owner/name[:config]` as a corpus.

    Raises RequestError where it is not written so.
    """
    repository, _, config = name.removeprefix("hf:").partition(":")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise RequestError(
            f"{name!r} does not name a dataset; write hf:owner/name or hf:owner/name:config"
        )
    return HubText(repository, config or None, held_out, column)
