"""Text to token shards, streaming: memory does not grow with the corpus."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flyweight.config import schema
from flyweight.core.files import digest, disk_errors, sha256
from flyweight.data.corpus import Corpus, Meta, SplitMeta
from flyweight.data.document import SPLITS, Document, Skipped, Source, SplitName
from flyweight.data.overlap import Overlap
from flyweight.data.shards import SHARD_TOKENS, ShardWriter, dtype_for
from flyweight.data.sources import source_of
from flyweight.data.streams import open_stream
from flyweight.data.streams.shards import fingerprint as stream_fingerprint
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.errors import FlyweightError, RequestError

Progress = Callable[[str, float], None]
_BATCH = 1 << 19
"""Characters tokenized at once; an encoding takes some hundred bytes a token."""
NAMED = 100
"""The most documents that are named of those left out."""


@dataclass(frozen=True)
class _Survey:
    """What reading the text once gives: its fingerprint, each split's bytes, documents left out.

    `skipped` counts the documents left out, and `left_out` names the first NAMED.
    """

    fingerprint: str
    bytes: dict[SplitName, int]
    skipped: int
    left_out: tuple[Skipped, ...]


def source_fingerprint(data: schema.Data, data_dir: Path | None = None) -> str:
    """Return the SHA-256 of the raw text, document names and splits of a corpus.

    The text is read in pieces, without a tokenizer. Of a stream no more is read than tells its
    shards apart.
    """
    if data.stream is not None:
        found = open_stream(data.stream, data_dir)
        return stream_fingerprint(data.stream.source, data.stream.text, found)
    return _survey(source_of(data, data_dir)).fingerprint


def _survey(source: Source) -> _Survey:
    content = hashlib.sha256()
    sizes: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)
    skipped = 0
    left_out: list[Skipped] = []
    for split in SPLITS:
        content.update(f"\0\0{split}".encode())
        for document in source.documents(split):
            if not isinstance(document, Document):
                skipped += 1
                left_out += [document][: NAMED - len(left_out)]
                continue
            if not document.continues:
                content.update(b"\0" + document.name.encode("utf-8", "surrogateescape") + b"\0")
            raw = document.text.encode()
            content.update(raw)
            sizes[split] += len(raw)
    return _Survey(content.hexdigest(), sizes, skipped, tuple(left_out))


def pack(
    data: schema.Data,
    data_dir: Path | None,
    folder: Path,
    progress: Progress | None = None,
    *,
    shard_tokens: int = SHARD_TOKENS,
    source: Source | None = None,
) -> Corpus:
    """Tokenize a corpus into the new or empty `folder` and return it.

    The store publishes the folder around it. `source` is the corpus, where it is open already.

    `progress` is called with the phase and the fraction of it that is done. Raises RequestError for
    text that cannot be used or is too short for windows of `data.context`, FlyweightError where
    the folder is in use or the disk refuses.
    """
    progress = progress or (lambda phase, done: None)
    source = source_of(data, data_dir) if source is None else source
    survey = _survey(source)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FlyweightError(f"{folder} is not empty; choose another folder or delete it")
    started = time.perf_counter()
    config = data.tokenizer or source.about.tokenizer
    tokenizer = _tokenizer(source, survey, config, progress, data_dir)
    tokenizer.save(folder / "tokenizer.json")
    trained = time.perf_counter()
    packer = _Packer(source, survey, tokenizer, folder, progress, shard_tokens)
    splits = packer.run()
    seconds = time.perf_counter() - trained
    _require_windows(splits, source.about.name, data.context)
    hashes = {name: split.sha256 for name, split in splits.items()}
    meta = Meta(
        corpus=_plain(source.about.name),
        origin=_plain(source.about.origin),
        fingerprint=digest({"tokens": hashes, "tokenizer": tokenizer.fingerprint}),
        dtype=dtype_for(tokenizer.vocab_size).str,
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.fingerprint,
        lossless=all(split.lost == 0 for split in splits.values()),
        separated=source.about.separated
        and bool(tokenizer.separator is not None or sum(tokenizer.around, ())),
        line_ends_are_words=source.about.line_ends_are_words,
        contiguous=source.about.contiguous,
        skipped=survey.skipped,
        left_out=tuple(
            f"{_plain(document.name)}: {_plain(document.reason)}" for document in survey.left_out
        ),
        seconds=seconds,
        tokenizer_seconds=trained - started,
        megabytes_per_second=sum(survey.bytes.values()) / 1e6 / seconds,
        splits=splits,
        opening=packer.opening,
        closing=packer.closing,
        overlap_unit="pieces",
    )
    meta.save(folder / "meta.json")
    return Corpus.open(folder)


def _plain(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _tokenizer(
    source: Source,
    survey: _Survey,
    config: schema.Tokenizer,
    progress: Progress,
    data_dir: Path | None,
) -> Tokenizer:
    def texts() -> Iterator[str]:
        done = 0
        for text in _texts(source, "train"):
            yield text
            done += len(text.encode())
            progress("reading for the tokenizer", done / survey.bytes["train"])
        progress("training the tokenizer", 0.0)

    def others() -> Iterator[str]:
        yield from _texts(source, "validation")
        yield from _texts(source, "test")

    if survey.bytes["train"] == 0:
        raise RequestError(f"{source.about.name}: the train split is empty; use more text")
    about = source.about
    size = survey.bytes["train"]
    return train(config, texts, others, size, about.separated, about.published, data_dir)


def _texts(source: Source, split: SplitName) -> Iterator[str]:
    return (document.text for document in source.documents(split) if isinstance(document, Document))


def _around(source: Source, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids before and after each document.

    They are those that the tokenizer itself adds to a text, else the separator. Where the corpus
    is one text, there are none after a document.
    """
    before, after = tokenizer.around
    if not source.about.separated:
        return before, ()
    if before or after or tokenizer.separator is None:
        return before, after
    return (), (tokenizer.separator,)


def _lost(text: str, back: str) -> int:
    """Return how many lines of a text differ from the text decoded from its tokens.

    At least one where the two texts differ.
    """
    if text == back:
        return 0
    ours, theirs = text.split("\n"), back.split("\n")
    return max(
        1, abs(len(ours) - len(theirs)) + sum(a != b for a, b in zip(ours, theirs, strict=False))
    )


class _Packer:
    """One pass over the text: tokens to shards, counts, and the overlap with train."""

    def __init__(
        self,
        source: Source,
        survey: _Survey,
        tokenizer: Tokenizer,
        folder: Path,
        progress: Progress,
        shard_tokens: int,
    ) -> None:
        self._source, self._tokenizer, self._folder = source, tokenizer, folder
        self._progress, self._shard_tokens = progress, shard_tokens
        self._total, self._done = max(1, sum(survey.bytes.values())), 0
        self._overlap = Overlap()
        self.opening, self.closing = _around(source, tokenizer)

    def run(self) -> dict[SplitName, SplitMeta]:
        """Pack all splits, the held-out ones first, because train is searched for their pieces."""
        order: tuple[SplitName, ...] = ("validation", "test", "train")
        packed = {split: self._split(split) for split in order}
        return {
            split: replace(packed[split], overlap=self._overlap.share(split)) for split in SPLITS
        }

    def _split(self, split: SplitName) -> SplitMeta:
        tokenizer = self._tokenizer
        writer = ShardWriter(
            self._folder, split, dtype_for(tokenizer.vocab_size), self._shard_tokens
        )
        counts = {"bytes": 0, "words": 0, "unknown": 0, "lost": 0}
        starts: list[int] = []
        for batch in self._batches(split):
            encoded = tokenizer.encode_batch([document.text for document in batch])
            if not tokenizer.reversible:
                back = tokenizer.decode_batch(encoded)
                counts["lost"] += sum(
                    _lost(document.text, text) for document, text in zip(batch, back, strict=True)
                )
            for document, ids in zip(batch, encoded, strict=True):
                if not document.continues:
                    writer.write(self.closing if starts else ())
                    starts.append(writer.tokens)
                    writer.write(self.opening)
                array = np.asarray(ids, dtype=np.uint32)
                writer.write(array)
                if tokenizer.unknown is not None:
                    counts["unknown"] += int(np.count_nonzero(array == tokenizer.unknown))
                self._count(split, document, counts)
            self._progress("pack", self._done / self._total)
        writer.write(self.closing if starts else ())
        shards, stream = writer.close()
        file = self._folder / f"{split}-documents.npy"
        with disk_errors(file), open(file, "xb") as content:
            np.save(content, np.asarray(starts, dtype=np.int64))
        return SplitMeta(
            tokens=writer.tokens,
            documents=len(starts),
            overlap=None,
            shards=shards,
            sha256=stream,
            documents_file=file.name,
            documents_sha256=sha256(file),
            **counts,
        )

    def _count(self, split: SplitName, document: Document, counts: dict[str, int]) -> None:
        text = document.text
        size = len(text.encode())
        counts["bytes"] += size
        counts["words"] += len(text.split())
        if self._source.about.line_ends_are_words:
            counts["words"] += text.count("\n")
        if split == "train":
            self._overlap.look(text, document.continues)
        else:
            self._overlap.remember(split, text, document.continues)
        self._done += size

    def _batches(self, split: SplitName) -> Iterator[list[Document]]:
        batch: list[Document] = []
        length = 0
        for document in self._source.documents(split):
            if not isinstance(document, Document):
                continue
            batch.append(document)
            length += len(document.text)
            if length >= _BATCH or len(batch) >= 1024:
                yield batch
                batch, length = [], 0
        if batch:
            yield batch


def _require_windows(splits: dict[SplitName, SplitMeta], corpus: str, context: int) -> None:
    """Raise RequestError unless every split has context + 1 tokens: a window and its targets."""
    if all(split.tokens > context for split in splits.values()):
        return
    have = ", ".join(f"{name} {split.tokens}" for name, split in splits.items())
    raise RequestError(
        f"{corpus} is too small for a context of {context}: every split needs {context + 1} "
        f"tokens, there are {have}; use more text, a smaller data.context, or larger validation "
        "and test splits (data.validation, data.test)"
    )
