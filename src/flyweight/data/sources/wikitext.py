"""WikiText-2 and WikiText-103 (Merity et al. 2016) with their standard splits.

Both exist word-level, with `<unk>` for rare words, and raw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import SPLITS, About, Document, HeldOut, SplitName
from flyweight.data.reading import read_pieces, safe_cut
from flyweight.data.sources.hub import Parquet, joined
from flyweight.data.sources.local import local_files

_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
# An article starts with a title in one pair of equals signs; sections have two pairs and more.
_TITLE = re.compile(r"(?:(?<=\n)|^)(?= \n = (?!= )[^\n]*(?<! =) = \n \n)")
_LONGEST = 1 << 21


def hub(name: str) -> Parquet:
    """Return where a WikiText lies on the hub."""
    return Parquet("Salesforce/wikitext", _REVISION, f"{name}-v1/{{split}}-*.parquet", "text")


@dataclass(frozen=True)
class WikiText:
    """Each article is a document, without separators.

    The standard token counts include line ends, but not document ends.
    """

    name: str
    tokenizer: schema.Tokenizer
    files: tuple[Path, ...] | None = None

    @property
    def about(self) -> About:
        """Words, line ends counted among them."""
        origin = "local files" if self.files else hub(self.name).address
        return About(
            self.name,
            origin,
            self.tokenizer,
            separated=False,
            line_ends_are_words=True,
            published=True,
        )

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split's articles."""
        if self.files:
            yield from articles(read_pieces(self.files[SPLITS.index(split)]))
        else:
            # The rows are lines; blank ones, " \n" in the standard files, are empty strings there.
            yield from articles(
                joined(row or " \n" for row in hub(self.name).rows(self.name, split))
            )


def articles(parts: Iterator[str]) -> Iterator[Document]:
    """Yield the articles of a text that comes in pieces of whole lines."""
    waiting, count, continues = "", 0, False
    for part in parts:
        waiting += part
        starts = [match.start() for match in _TITLE.finditer(waiting) if match.start() > 0]
        for start, stop in pairwise([0, *starts]):
            yield Document(f"article {count}", waiting[start:stop], continues)
            count, continues = count + 1, False
        waiting = waiting[starts[-1] :] if starts else waiting
        if len(waiting) > _LONGEST:
            cut = safe_cut(waiting[:_LONGEST])
            yield Document(f"article {count}", waiting[:cut], continues)
            waiting, continues = waiting[cut:], True
    if waiting:
        yield Document(f"article {count}", waiting, continues)


def _opener(name: str, tokenizer: schema.Tokenizer) -> Callable[[Path | None, HeldOut], WikiText]:
    endings = ("raw",) if name.endswith("raw") else ("tokens",)
    files = [
        (f"{short}.txt", *(f"wiki.{short}.{ending}" for ending in endings))
        for short in ("train", "valid", "test")
    ]

    def open_source(data_dir: Path | None, held_out: HeldOut) -> WikiText:
        return WikiText(name, tokenizer, local_files(data_dir, name, files))

    return open_source


open_2 = _opener("wikitext-2", schema.WordTokenizer())
open_103 = _opener("wikitext-103", schema.WordTokenizer())
open_2_raw = _opener("wikitext-2-raw", schema.BpeTokenizer())
open_103_raw = _opener("wikitext-103-raw", schema.BpeTokenizer())
