"""Tiny Shakespeare: nats per character on the last 10 % (nanoGPT's split) of a recipe's last model, in a fresh runs root.

python benchmarks/bench_shakespeare.py [--recipe shakespeare|FILE] [--data-dir ../shared/data]
[path=value ...]

FLOPs are those of everything that was trained for the model, a teacher's among them.                  results/RECIPE.csv
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import ROOT, Rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="shakespeare")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("words", nargs="*", metavar="path=value")
    options = parser.parse_args()
    rows = Rows("shakespeare")
    with tempfile.TemporaryDirectory() as runs:
        command = [
            sys.executable,
            "-m",
            "flyweight",
            "run",
            options.recipe,
            *options.words,
            "--runs",
            runs,
            "--json",
        ]
        began = time.monotonic()
        answer = subprocess.run(
            [*command, "--data-dir", str(options.data_dir)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - began
    summary = json.loads(answer.stdout)
    model = summary["models"][-1]
    (apart,) = [stage for stage in summary["stages"] if stage["evaluate"]]
    setting = f"{model['config_line']}, seed {summary['seed']}"
    rows.add("flyweight", setting, "last 10 %", 0, apart["evaluate"]["nll"]["value"], "nats/char")
    rows.add(
        "flyweight", setting, "test (last 5 %)", 0, model["evaluate"]["nll"]["value"], "nats/char"
    )
    rows.add("flyweight", setting, "parameters", 0, model["parameters"]["unique"], "parameters")
    rows.add("flyweight", setting, "training FLOPs", 0, model["training"]["total_flops"], "FLOPs")
    rows.add("flyweight", setting, "training", 0, model["training"]["total_seconds"], "s")
    rows.add("flyweight", setting, "whole command", 0, seconds, "s")
    print(rows.write(Path(options.recipe).stem))


if __name__ == "__main__":
    main()
