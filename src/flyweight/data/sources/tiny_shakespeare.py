"""Tiny Shakespeare (Karpathy): 1,115,394 characters of plays, 65 different ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import SPLITS, About, Document, HeldOut, SplitName
from flyweight.data.reading import pieces, read_pieces, split_text
from flyweight.data.sources.hub import Parquet
from flyweight.data.sources.local import local_files

HUB = Parquet(
    "karpathy/tiny_shakespeare",
    "fe12e06d82fe3af4291b90426557387520d81385",
    "data/{split}-00000-of-00001.parquet",
    "text",
)
FILES = (("input.txt",),)
_NAME = "tiny-shakespeare"


@dataclass(frozen=True)
class TinyShakespeare:
    """Split 90/5/5 by position: validation and test are nanoGPT's split, the last tenth."""

    file: Path | None = None

    @property
    def about(self) -> About:
        """One text of characters."""
        origin = "a local file" if self.file else HUB.address
        return About(
            _NAME, origin, schema.CharTokenizer(), separated=False, contiguous=True, published=True
        )

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split's part of the text."""
        if self.file:
            text = "".join(read_pieces(self.file))
        else:
            text = "".join(row for part in SPLITS for row in HUB.rows(_NAME, part))
        first, second = int(len(text) * 0.9), int(len(text) * 0.95)
        part = {"train": text[:first], "validation": text[first:second], "test": text[second:]}[
            split
        ]
        yield from pieces("input.txt", split_text(part))


def open_source(data_dir: Path | None, held_out: HeldOut) -> TinyShakespeare:
    """Return the corpus from `data_dir/tiny-shakespeare`, else from the hub.

    Its split is standard.
    """
    paths = local_files(data_dir, _NAME, FILES)
    return TinyShakespeare(paths[0] if paths else None)
