"""Where text comes from: registered corpora, files, folders, globs and the hub."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import HeldOut, Source
from flyweight.data.sources import hub, ptb, python_stdlib, site_packages, text, tiny_shakespeare, wikitext
from flyweight.errors import RequestError


def resolve(corpus: str | Sequence[str], data_dir: Path | None = None, held_out: HeldOut | None = None) -> Source:
    """Return the source that `corpus` names: a registered name, `hf:owner/name[:config]`, a file, a folder or a glob.

    A list names files and folders that are one corpus together. A registered name wins over a file of that name (write
    `./ptb` for the file). Raises RequestError with the nearest name.
    """
    held_out = held_out or HeldOut()
    if not isinstance(corpus, str):
        if len(corpus) > 1:
            return text.open_several([Path(name).expanduser() for name in corpus], held_out)
        corpus = corpus[0]
    if corpus in SOURCES:
        return SOURCES[corpus](data_dir, held_out)
    if corpus.startswith("hf:"):
        return hub.open_dataset(corpus, held_out)
    path = Path(corpus).expanduser()
    try:
        exists = bool(corpus) and path.exists()
    except (OSError, ValueError) as error:
        raise RequestError(f"{corpus!r} cannot be read: {error}") from error
    if exists:
        return text.open_path(path, held_out)
    if any(mark in corpus for mark in "*?["):
        return text.open_glob(corpus, held_out)
    names = ", ".join(sorted(SOURCES))
    ways = f"registered are {names}; or give a text file, a folder, a glob or hf:owner/name[:config]"
    if "/" in corpus or "\\" in corpus or path.suffix:
        raise RequestError(f"{corpus!r} does not exist (looked from {Path.cwd()}) and is no registered corpus; {ways}")
    near = difflib.get_close_matches(corpus, SOURCES, 1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RequestError(f"there is no corpus {corpus!r}; {hint}{ways[0].upper()}{ways[1:]}")


def with_tokenizer(data: schema.Data, data_dir: Path | None = None) -> schema.Data:
    """Return the data config with its corpus' own default tokenizer written out; raise RequestError as `resolve` does."""
    if data.tokenizer is not None:
        return data
    return data.model_copy(update={"tokenizer": resolve(data.corpus, data_dir).about.tokenizer})


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
