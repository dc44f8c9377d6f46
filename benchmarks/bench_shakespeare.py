"""Tiny Shakespeare: nats per character on the last 10 % (nanoGPT's split) of each model that a recipe evaluates there.

python benchmarks/bench_shakespeare.py [--recipe shakespeare|FILE] [--data-dir ../shared/data]
[--seeds 0 1 2] [--runs DIR] [--threads N]

Without --runs everything is made anew, and the whole command is timed. FLOPs and seconds of training are those of
everything that was trained for a model, a teacher's among them.                                       results/RECIPE.csv
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import ROOT, Rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="shakespeare")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--threads")
    parser.add_argument("--seeds", nargs="+", default=["0"])
    options = parser.parse_args()
    rows = Rows("shakespeare")
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as fresh:
            began = time.monotonic()
            summary = run(options, options.runs or Path(fresh), seed)
            seconds = time.monotonic() - began
        add(rows, summary)
        if not options.runs:
            rows.add("flyweight", f"seed {seed}", "whole command", 0, seconds, "s")
    print(rows.write(Path(options.recipe).stem))


def add(rows: Rows, summary: dict[str, Any]) -> None:
    """Add what each evaluation of the last 10 % says of its model."""
    models = {model["name"]: model for model in summary["models"]}
    for stage in summary["stages"]:
        if not stage["evaluate"]:
            continue
        model = models[stage["input"]]
        setting = f"{model['config_line']}, seed {summary['seed']}"
        found = {
            "last 10 %": (stage["evaluate"]["nll"]["value"], "nats/char"),
            "test (last 5 %)": (model["evaluate"]["nll"]["value"], "nats/char"),
            "parameters": (model["parameters"]["unique"], "parameters"),
        }
        if model["training"]:
            found["training FLOPs"] = (model["training"]["total_flops"], "FLOPs")
            found["training"] = (model["training"]["total_seconds"], "s")
        for name, (value, unit) in found.items():
            rows.add(model["name"], setting, name, 0, value, unit)


def run(options: argparse.Namespace, runs: Path, seed: str) -> dict[str, Any]:
    """Run the recipe and return its summary."""
    command = [sys.executable, "-m", "flyweight", "run", options.recipe, f"seed={seed}"]
    command += ["--runs", str(runs), "--data-dir", str(options.data_dir), "--json"]
    command += ["--threads", options.threads] if options.threads else []
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout)


if __name__ == "__main__":
    main()
