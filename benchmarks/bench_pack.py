"""Packing: MB/s and peak memory for generated texts of two sizes, each in a fresh process; memory must not grow with the text.

python benchmarks/bench_pack.py [--sizes 8 64] [--tokenizers byte bpe word] [--out results/pack.csv]
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

FIELDS: tuple[str, ...] = (
    "benchmark",
    "tokenizer",
    "text_mb",
    "metric",
    "value",
    "unit",
    "machine",
    "flyweight",
    "tokenizers",
    "time",
)


def write_text(path: Path, megabytes: int) -> None:
    random.seed(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(random.choices(letters, k=random.randint(1, 11))) for _ in range(20_000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            drawn = iter(random.choices(words, weights, k=12_000))
            file.writelines(" ".join([word, *(next(drawn) for _ in range(11))]) + "\n" for word in drawn)


def measure(text: Path, tokenizer: str, folder: Path) -> dict[str, float]:
    import tokenizers  # noqa: F401 (its own size is not the packer's)

    from flyweight.config.schema import Data
    from flyweight.data.pack import pack

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    meta = pack(Data.model_validate({"corpus": str(text), "tokenizer": tokenizer}), None, folder).meta
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1024 if sys.platform != "darwin" else 1
    return {
        "pack_mb_per_s": meta.megabytes_per_second,
        "tokenizer_s": meta.tokenizer_seconds,
        "peak_mb_over_imports": (peak - before) * scale / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=[8, 64], help="megabytes of text")
    parser.add_argument("--tokenizers", nargs="+", default=["byte", "word", "bpe"])
    parser.add_argument("--out", type=Path, help="CSV file to write; standard output if left out")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Path(options.one[0]), options.one[1], Path(options.one[2]))))
        return
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = f"{platform.system()} {platform.machine()}, {platform.python_implementation()} {platform.python_version()}"
    units = {"pack_mb_per_s": "MB/s", "tokenizer_s": "s", "peak_mb_over_imports": "MB"}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            text = Path(folder) / f"{size}.txt"
            write_text(text, size)
            for tokenizer in options.tokenizers:
                command = [sys.executable, __file__, "--one", str(text), tokenizer, f"{folder}/{size}-{tokenizer}"]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                for metric, value in json.loads(done.stdout).items():
                    what = {"benchmark": "pack", "tokenizer": tokenizer, "text_mb": size, "metric": metric}
                    versions = {"flyweight": version("flyweight"), "tokenizers": version("tokenizers")}
                    number = {"value": round(value, 3), "unit": units[metric]}
                    rows.append({**what, **number, "machine": machine, **versions, "time": stamp})
    with open(options.out, "w", newline="") if options.out else sys.stdout as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
