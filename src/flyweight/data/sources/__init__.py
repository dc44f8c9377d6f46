"""Where text comes from: registered corpora, files, folders, globs and the hub."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from flyweight.config import schema
from flyweight.core.files import reason, user_path
from flyweight.data.document import HeldOut, Source
from flyweight.data.sources import (
    hub,
    ptb,
    python_stdlib,
    site_packages,
    text,
    tiny_shakespeare,
    wikitext,
)
from flyweight.data.sources.separated import Separated
from flyweight.data.streams import open_stream
from flyweight.data.streams.held_out import StreamSample
from flyweight.errors import RequestError


def resolve(
    corpus: str | Sequence[str],
    data_dir: Path | None = None,
    held_out: HeldOut | None = None,
    column: str | None = None,
) -> Source:
    """Return the source that `corpus` names.

    It is a registered name, `hf:owner/name[:config]`, a file, a folder or a glob; a list of files,
    folders and globs is one corpus. A registered name wins over a file of that name
    (write `./ptb` for the file). A bare name is looked for here, then in `data_dir`. `column` is
    the column of text in files of rows. Raises RequestError with the nearest name.
    """
    held_out = held_out or HeldOut()
    if not isinstance(corpus, str):
        return text.open_list(corpus, held_out, column)
    if corpus in SOURCES:
        if column is not None:
            raise RequestError(f"data.column: {corpus} has no columns to choose from; leave it out")
        return SOURCES[corpus](data_dir, held_out)
    if corpus.startswith("hf:"):
        return hub.open_dataset(corpus, held_out, column)
    path = user_path(corpus)
    places = [path]
    if data_dir is not None and path.name == corpus:
        places.append(data_dir / corpus)
    for place in places:
        try:
            exists = bool(corpus) and place.exists()
        except (OSError, ValueError) as error:
            raise RequestError(f"{corpus!r} cannot be read: {reason(error)}") from error
        if exists:
            return text.open_path(place, held_out, column)
    if any(mark in corpus for mark in "*?["):
        return text.open_glob(corpus, held_out, column)
    names = ", ".join(sorted(SOURCES))
    ways = f"give a text file, a folder, a glob, hf:owner/name[:config], or one of {names}"
    if "/" in corpus or "\\" in corpus or path.suffix:
        raise RequestError(
            f"{corpus!r} does not exist (looked from {Path.cwd()}) and is not the name of a "
            f"corpus; {ways}"
        )
    near = difflib.get_close_matches(corpus, SOURCES, 1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    start = f"{ways[0].upper()}{ways[1:]}" if near else ways
    raise RequestError(f"no corpus is called {corpus!r}{hint} {start}")


def source_of(data: schema.Data, data_dir: Path | None = None) -> Source:
    """Return the source of a data config; of a stream its held-out documents and a sample.

    Raises RequestError as `resolve` does, and for a separator where the corpus has documents.
    """
    if data.stream is not None:
        return StreamSample(data.stream, open_stream(data.stream, data_dir))
    assert data.corpus is not None
    source = resolve(data.corpus, data_dir, HeldOut(data.validation, data.test), data.column)
    if data.separator is None:
        return source
    if isinstance(data.corpus, str) and (data.corpus in SOURCES or data.corpus.startswith("hf:")):
        raise RequestError(
            f"data.separator: {data.corpus} has documents of its own; a separator is for text files"
        )
    return Separated(source, data.separator)


def with_tokenizer(data: schema.Data, data_dir: Path | None = None) -> schema.Data:
    """Return the data config with its corpus' own default tokenizer written out.

    Raises RequestError as `resolve` does.
    """
    if data.tokenizer is not None:
        return data
    if data.stream is not None:
        return data.model_copy(update={"tokenizer": schema.BpeTokenizer()})
    return data.model_copy(update={"tokenizer": source_of(data, data_dir).about.tokenizer})


SOURCES: dict[str, Callable[[Path | None, HeldOut], Source]] = {
    "python-stdlib": python_stdlib.open_source,
    "installed-packages": site_packages.open_source,
    "tiny-shakespeare": tiny_shakespeare.open_source,
    "ptb": ptb.open_source,
    "wikitext-2": wikitext.open_2,
    "wikitext-103": wikitext.open_103,
    "wikitext-2-raw": wikitext.open_2_raw,
    "wikitext-103-raw": wikitext.open_103_raw,
}
