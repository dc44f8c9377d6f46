"""Shards of a text on this machine: `python -m flyweight.data.streams.make TEXT DIR`.

    DIR/00000.jsonl.gz, DIR/00001.jsonl.gz, ...

Each line has a document as `{"text": ...}`. The same text gives the same files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from flyweight.config import schema
from flyweight.core.files import disk_errors, refuse_existing, user_path
from flyweight.core.terminal import prepare
from flyweight.data.document import SPLITS, Document, Source
from flyweight.data.sources import source_of
from flyweight.data.sources.local import VARIABLE, data_folder
from flyweight.errors import FlyweightError

DOCUMENTS = 250
"""Documents of a shard."""


def make(source: Source, folder: Path, documents: int = DOCUMENTS) -> list[Path]:
    """Write a text's documents, those of all splits, into shards of a new folder; return them.

    Raises RequestError for a folder that is there, and FlyweightError where the disk refuses.
    """
    refuse_existing(folder)
    rows, made = texts(source), list[Path]()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while batch := list(islice(rows, documents)):
            path = folder / f"{len(made):05d}.jsonl.gz"
            lines = "".join(f"{json.dumps({'text': text}, ensure_ascii=False)}\n" for text in batch)
            path.write_bytes(gzip.compress(lines.encode(), mtime=0))
            made.append(path)
    return made


def texts(source: Source) -> Iterator[str]:
    """Yield the text of each document; one that comes in pieces is put together."""
    pieces = list[str]()
    for split in SPLITS:
        for document in source.documents(split):
            if not isinstance(document, Document):
                continue
            if not document.continues and pieces:
                yield "".join(pieces)
                pieces = []
            pieces.append(document.text)
    if pieces:
        yield "".join(pieces)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    prepare()
    parser = argparse.ArgumentParser(
        prog="python -m flyweight.data.streams.make", description=make.__doc__
    )
    parser.add_argument("text", help="a corpus, file, folder or glob, as data.corpus names it")
    parser.add_argument("folder", type=user_path, help="a new folder for the shards")
    parser.add_argument("--separator", help="what stands between the documents of a text file")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="documents of a shard")
    parser.add_argument("--data-dir", help=f"local copies of corpora (default: ${VARIABLE})")
    asked = parser.parse_args(words)
    try:
        data = schema.Data(corpus=asked.text, separator=asked.separator)
        made = make(source_of(data, data_folder(asked.data_dir)), asked.folder, asked.documents)
    except FlyweightError as error:
        print(f"flyweight: {error}", file=sys.stderr)
        return error.status
    print(f"{len(made)} shards in {asked.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
