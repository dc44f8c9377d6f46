"""Penn Treebank as Mikolov prepared it: 10,000 words, standard splits, one sentence a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import SPLITS, About, Document, HeldOut, SplitName
from flyweight.data.reading import pieces, read_pieces
from flyweight.data.sources.hub import Parquet, joined
from flyweight.data.sources.local import local_files

# The repository's main branch is a script, which datasets no longer runs; the hub's own conversion
# of it is parquet.
HUB = Parquet(
    "ptb-text-only/ptb_text_only",
    "refs/convert/parquet",
    "penn_treebank/{split}/*.parquet",
    "sentence",
)
FILES = (("ptb.train.txt",), ("ptb.valid.txt",), ("ptb.test.txt",))


@dataclass(frozen=True)
class Ptb:
    """Each split is one document.

    Sentences are in the order of the articles, whose ends are not marked.
    """

    files: tuple[Path, ...] | None = None

    @property
    def about(self) -> About:
        """Words, line ends counted among them."""
        origin = "local files" if self.files else HUB.address
        return About(
            "ptb",
            origin,
            schema.WordTokenizer(),
            separated=False,
            line_ends_are_words=True,
            published=True,
        )

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split."""
        if self.files:
            yield from pieces(f"ptb.{split}", read_pieces(self.files[SPLITS.index(split)]))
        else:
            # The rows are stripped sentences; this restores the lines of the standard files.
            yield from pieces(
                f"ptb.{split}", joined(f" {row} \n" for row in HUB.rows("ptb", split))
            )


def open_source(data_dir: Path | None, held_out: HeldOut) -> Ptb:
    """Return PTB from `data_dir/ptb`, else from the hub.

    Its splits are standard, so `held_out` does not matter.
    """
    return Ptb(local_files(data_dir, "ptb", FILES))
