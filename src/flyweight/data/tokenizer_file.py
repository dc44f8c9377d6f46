"""A tokenizer that is a file: where it is found, and what of it a text uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from flyweight.config import schema
from flyweight.core.files import user_path
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.vocabulary_cut import cut_vocabulary
from flyweight.errors import RequestError

AT_ONCE = 256
"""Pieces of a text that are encoded together."""


def tokenizer_path(config: schema.FileTokenizer, data_dir: Path | None) -> Path:
    """Return where a tokenizer's file or folder is: here, else in the folder of local copies."""
    path = user_path(config.path)
    if data_dir is None or path.is_absolute() or path.exists():
        return path
    beside = data_dir / path
    return beside if beside.exists() else path


def file_tokenizer(
    config: schema.FileTokenizer, data_dir: Path | None, texts: Iterable[str]
) -> Tokenizer:
    """Return the tokenizer of a file; with `cut`, without the entries that `texts` never use.

    Raises RequestError where it cannot be read, or not be cut exactly.
    """
    tokenizer = Tokenizer.load(tokenizer_path(config, data_dir))
    if not config.cut:
        return tokenizer
    try:
        return cut_vocabulary(tokenizer, used_entries(tokenizer, texts)).tokenizer
    except RequestError as error:
        reason = str(error).removeprefix("vocabulary: ")
        raise RequestError(f"data.tokenizer.cut: {reason}; leave cut out") from error


def used_entries(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    """Return the ids that some texts are encoded into."""
    used = set[int]()
    for batch in _batches(texts):
        for ids in tokenizer.encode_batch(batch):
            used.update(ids)
    return used


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch
