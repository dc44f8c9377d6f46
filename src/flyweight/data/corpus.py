"""A packed corpus: memory-mapped token shards, their tokenizer, and facts about their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flyweight.core.files import digest, read_json, sha256, write_json
from flyweight.data.document import SPLITS, SplitName
from flyweight.data.shards import Shard, Tokens
from flyweight.data.tokenizer import Tokenizer, named_tokens
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.likelihood import EvaluatedSplit

VERSION = 2
OverlapUnit = Literal["pieces", "lines"]


@dataclass(frozen=True)
class SplitMeta:
    """Counts of one split.

    `bytes` are those of the text as it is read (CRLF is one line end, a byte-order mark none) in
    UTF-8. `words` are its words as `str.split` finds them, plus one for each line end where the
    corpus counts line ends (PTB, WikiText), whatever the tokenizer: word perplexity is exp(total
    nll / words). `unknown` counts `<unk>` tokens, including those written in the text. `overlap`
    is the share of the text that train contains too, in pieces of 50 characters
    (`Meta.overlap_unit`); None for train itself. `documents` counts documents, whose token offsets
    are in `documents_file`; `sha256` is that of the split's whole stream of tokens. `lost` counts
    the lines that decoding changes. It is None in older corpora, which checked only the beginning
    of the text (`Meta.lossless`).
    """

    tokens: int
    bytes: int
    words: int
    documents: int
    unknown: int
    overlap: float | None
    shards: tuple[Shard, ...]
    sha256: str
    documents_file: str
    documents_sha256: str
    lost: int | None = None


@dataclass(frozen=True)
class Meta:
    """Everything known about a packed corpus; `fingerprint` covers tokens and tokenizer.

    `skipped` counts documents that were left out, and `left_out` names the first of them, with the
    reasons. `opening` and `closing` are the ids written before and after each document; older
    corpora lack `closing`. `overlap_unit` is what overlap counts: pieces of 50 characters, or
    lines in older corpora.
    """

    corpus: str
    origin: str
    fingerprint: str
    dtype: str
    vocab_size: int
    tokenizer: str
    lossless: bool
    separated: bool
    line_ends_are_words: bool
    contiguous: bool
    skipped: int
    seconds: float
    tokenizer_seconds: float
    megabytes_per_second: float
    splits: dict[SplitName, SplitMeta]
    left_out: tuple[str, ...] = ()
    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] | None = None
    overlap_unit: OverlapUnit = "lines"

    def losses(self, split: str) -> str | None:
        """Say how much of a split's text its tokens do not give back; None where they give all.

        `split` may be `validation+test`. Where text is lost, its tokens hold less information
        than the text, and bits per byte are too good.
        """
        parts = [self.splits[name] for name in SPLITS if name in split.split("+")]
        if all(self.lossless if part.lost is None else part.lost == 0 for part in parts):
            return None
        lost = sum(part.lost or 0 for part in parts)
        unknown = sum(part.unknown for part in parts) / max(1, sum(part.tokens for part in parts))
        lines = f"{lost:,} line{'s' * (lost != 1)}" if lost else "lines"
        share = f", and {100 * unknown:.2g} % of its tokens are unknown" if unknown else ""
        return (
            f"{lines} of the {split} split do not come back from their tokens{share}: bits per "
            "byte are too good, and compare models of this tokenizer alone"
        )

    def save(self, path: Path) -> None:
        """Write the meta file with a digest of itself."""
        content = asdict(self)
        write_json(path, {"version": VERSION, "digest": digest(content), "content": content})

    @classmethod
    def load(cls, path: Path) -> Meta:
        """Read a meta file.

        Raises FlyweightError where it is missing, damaged or of another version.
        """
        raw = read_json(path)
        advice = f"delete {path.parent} and run again"
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            raise FlyweightError(
                f"{path} is not the meta file of a packed corpus of version {VERSION}; {advice}"
            )
        content = raw.get("content")
        if not isinstance(content, dict) or digest(content) != raw.get("digest"):
            raise FlyweightError(f"{path} is damaged (its digest differs); {advice}")
        splits = {name: cls._split(content["splits"][name]) for name in SPLITS}
        names = ("left_out", "opening", "closing")
        tuples = {name: tuple(content[name]) for name in names if content.get(name) is not None}
        return cls(**{**content, "splits": splits, **tuples})

    @staticmethod
    def _split(content: dict[str, Any]) -> SplitMeta:
        return SplitMeta(
            **{**content, "shards": tuple(Shard(**shard) for shard in content["shards"])}
        )


@dataclass(frozen=True)
class Split:
    """One split: its tokens, where its documents start, and the size of its raw text.

    `opening` is the number of begin tokens at each document's start, `closing` that of end tokens
    behind it. `marks` are the ids that do not encode any text. `vocab_size` is the number of tokens
    that exist (None: as many as a model has).
    """

    name: EvaluatedSplit
    tokens: Tokens
    documents: np.ndarray
    bytes: int
    words: int
    unknown: int
    opening: int = 0
    marks: tuple[int, ...] = ()
    vocab_size: int | None = None
    closing: int = 0


@dataclass(frozen=True)
class Corpus:
    """A folder written by `pack`."""

    folder: Path
    meta: Meta

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> Corpus:
        """Open a packed corpus.

        Raises FlyweightError naming the file that is missing, truncated or (`verify`) corrupted.
        """
        meta = Meta.load(folder / "meta.json")
        for split in meta.splits.values():
            width = np.dtype(meta.dtype).itemsize
            for shard in split.shards:
                _check(folder / shard.file, shard.tokens * width, shard.sha256 if verify else None)
            _check(folder / split.documents_file, None, split.documents_sha256 if verify else None)
        corpus = cls(folder, meta)
        if verify and corpus.tokenizer.fingerprint != meta.tokenizer:
            raise FlyweightError(_damaged(folder / "tokenizer.json", "its fingerprint differs"))
        return corpus

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the tokens come from."""
        try:
            return Tokenizer.load(self.folder / "tokenizer.json")
        except RequestError as error:
            raise FlyweightError(_damaged(self.folder / "tokenizer.json", str(error))) from error

    def split(self, name: SplitName) -> Split:
        """Return one split, memory-mapped."""
        if name not in self.meta.splits:
            raise RequestError(f"a corpus has no split {name!r}, only {', '.join(SPLITS)}")
        return self._joined(name, (name,))

    def held_out(self) -> Split:
        """Return validation and test as one text; raise RequestError where they do not adjoin.

        For Tiny Shakespeare this is the last tenth, which nanoGPT reports on.
        """
        if not self.meta.contiguous:
            raise RequestError(
                f"validation and test of {self.meta.corpus} do not adjoin; measure them apart"
            )
        return self._joined("validation+test", ("validation", "test"))

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """The ids that the packer wrote around documents: they stand for no text."""
        return tuple(sorted({*self.meta.opening, *self.closing}))

    @cached_property
    def closing(self) -> tuple[int, ...]:
        """The ids that the packer wrote after each document."""
        if self.meta.closing is not None:
            return self.meta.closing
        end = self.tokenizer.separator  # a corpus of early days
        return (end,) if self.meta.separated and end is not None else ()

    def require_rows(self, rows: int, splits: Sequence[SplitName] = SPLITS) -> None:
        """Check that a model with `rows` rows can read every token of these splits.

        Raises RequestError that names the tokens without a row.
        """
        if self.meta.vocab_size <= rows:
            return
        texts = {at: text for text, at in self.tokenizer.vocab.items()}
        ids = {
            int(at)
            for name in splits
            for part in self._parts(name)
            for at in np.unique(part[part >= rows])
        }
        if ids:
            named = named_tokens({at: texts.get(at, "?") for at in sorted(ids)})
            raise RequestError(
                f"{self.meta.corpus}: the model has {rows} rows and none for {named}, which the "
                "text holds; take such tokens out of its tokenizer.json, or use the tokenizer that "
                "the model was trained with"
            )

    def _parts(self, name: SplitName) -> list[np.ndarray]:
        shards = self.meta.splits[name].shards
        return [
            np.memmap(self.folder / shard.file, np.dtype(self.meta.dtype), mode="r")
            for shard in shards
        ]

    def _joined(self, name: EvaluatedSplit, splits: Sequence[SplitName]) -> Split:
        parts: list[np.ndarray] = []
        documents: list[np.ndarray] = []
        offset = 0
        for split in splits:
            meta = self.meta.splits[split]
            parts += self._parts(split)
            documents.append(np.load(self.folder / meta.documents_file) + offset)
            offset += meta.tokens
        metas = [self.meta.splits[split] for split in splits]
        return Split(
            name,
            Tokens(parts),
            np.concatenate(documents),
            sum(meta.bytes for meta in metas),
            sum(meta.words for meta in metas),
            sum(meta.unknown for meta in metas),
            opening=len(self.meta.opening),
            marks=self.marks,
            vocab_size=self.meta.vocab_size,
            closing=len(self.closing),
        )


def _check(path: Path, size: int | None, expected: str | None) -> None:
    try:
        actual = path.stat().st_size
        if size is not None and actual != size:
            raise FlyweightError(_damaged(path, f"it has {actual} bytes instead of {size}"))
        if expected is not None and sha256(path) != expected:
            raise FlyweightError(_damaged(path, "its checksum differs"))
    except OSError as error:
        raise FlyweightError(_damaged(path, error.strerror or str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} is damaged or missing ({reason}); delete {path.parent} and run again to pack it "
        "anew"
    )
