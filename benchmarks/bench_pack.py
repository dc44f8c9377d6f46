"""Packing: MB/s and peak memory for generated texts of two sizes, each in a fresh process.

Memory must not grow with the text.

python benchmarks/bench_pack.py [--sizes 8 64] [--tokenizers byte bpe word] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
from pathlib import Path

from rows import Rows, spread, worker

UNITS = {"pack_mb_per_s": "MB/s", "tokenizer_s": "s", "peak_mb_over_imports": "MB"}


def write_text(path: Path, megabytes: int) -> None:
    random.seed(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(random.choices(letters, k=random.randint(1, 11))) for _ in range(20_000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            drawn = iter(random.choices(words, weights, k=12_000))
            file.writelines(
                " ".join([word, *(next(drawn) for _ in range(11))]) + "\n" for word in drawn
            )


def measure(text: Path, tokenizer: str, folder: Path) -> dict[str, float]:
    import tokenizers  # noqa: F401 (its own size is not the packer's)

    from flyweight.config.schema import Data
    from flyweight.data.pack import pack

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    meta = pack(
        Data.model_validate({"corpus": str(text), "tokenizer": tokenizer}), None, folder
    ).meta
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1024 if sys.platform != "darwin" else 1
    return {
        "pack_mb_per_s": meta.megabytes_per_second,
        "tokenizer_s": meta.tokenizer_seconds,
        "peak_mb_over_imports": (peak - before) * scale / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=[8, 64], help="megabytes of text")
    parser.add_argument("--tokenizers", nargs="+", default=["byte", "word", "bpe"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(job["text"]), job["tokenizer"], Path(folder) / "packed")))
        return
    rows, summary = Rows("pack"), []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            text = Path(folder) / f"{size}.txt"
            write_text(text, size)
            for tokenizer in options.tokenizers:
                speeds = []
                for repeat in range(options.repeats):
                    found = worker(__file__, {"text": str(text), "tokenizer": tokenizer})
                    for metric, value in found.items():
                        rows.add(
                            tokenizer, f"{size} MB of text", metric, repeat, value, UNITS[metric]
                        )
                    speeds.append(found["pack_mb_per_s"])
                summary.append(f"{tokenizer}, {size} MB: {spread(speeds)} MB/s")
    print(rows.write(), *summary, sep="\n")


if __name__ == "__main__":
    main()
