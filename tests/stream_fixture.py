"""Shards of small documents: what a stream is made of in tests."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "rain",
    "fell",
    "and",
    "old",
    "ships",
    "went",
    "home",
    "over",
    "grey",
    "water",
]


def documents(count: int, seed: int = 0) -> list[str]:
    """Return documents of a few words each, all different."""
    drawn = random.Random(seed)
    return [
        f"{number} {' '.join(drawn.choices(WORDS, k=drawn.randint(8, 40)))}.\n"
        for number in range(count)
    ]


def write_jsonl(path: Path, texts: list[str], column: str = "text") -> Path:
    """Write rows of JSON, packed where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps({"id": n, column: text}) + "\n" for n, text in enumerate(texts))
    data = raw.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, texts: list[str], column: str = "text", group: int = 50) -> Path:
    """Write a Parquet file of row groups of so many rows."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: texts}), path, row_group_size=group)
    return path


def write_shards(folder: Path, shards: int = 4, rows: int = 100, suffix: str = ".jsonl.gz") -> str:
    """Write shards of documents and return the glob that names them."""
    texts = documents(shards * rows)
    write = write_parquet if suffix == ".parquet" else write_jsonl
    for number in range(shards):
        write(folder / f"part-{number:03d}{suffix}", texts[number * rows : (number + 1) * rows])
    return str(folder / f"*{suffix}")


def stream_data(source: str, **fields: Any) -> dict[str, Any]:
    """Return `data` of a small stream, read by bytes in windows of 32."""
    small = {"validation": "2kB", "test": "2kB", "sample": "8kB", "shuffle": 40}
    stream = {"source": source, **small, **fields}
    return {"stream": stream, "tokenizer": "byte", "context": 32}
