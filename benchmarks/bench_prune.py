"""Bits per byte of pruned models: each method at each sparsity, one-shot and after recovery.

    python benchmarks/bench_prune.py [--corpus tiny-shakespeare] [--steps 400] [--recovery 40]

A model of 4 x 128 is trained, pruned, and trained further for `--recovery` steps. `dense` is the
model as it was and, under `after recovery`, trained further for as long. Numbers are of the test
split, on which nothing is chosen. The runs root is `--runs`, where a second run finds what is made.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rows import Rows

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load

METHODS = ("random", "magnitude", "wanda", "sparsegpt")
SHARES: dict[str, dict[str, Any]] = {
    "30 %": {"sparsity": 0.3},
    "50 %": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "80 %": {"sparsity": 0.8},
}
ONE_SHOT, RECOVERED = "one-shot", "after recovery"


def recipe(corpus: str, steps: int, recovery: int) -> dict[str, Any]:
    """Return the recipe: a model, pruned in every way, and each of these trained further."""
    recover = {
        "stage": "finetune",
        "method": "full",
        "train": {"steps": recovery, "validations": 0, "optimizer": {"kind": "muon", "lr": 0.005}},
    }
    stages: dict[str, Any] = {
        "dense": {"stage": "pretrain", "train": {"steps": steps}},
        "dense-back": {**recover, "input": "dense"},
    }
    for method in METHODS:
        for share, fields in SHARES.items():
            name = stage_name(method, share)
            stages[name] = {"stage": "prune", "input": "dense", "method": method, **fields}
            stages[f"{name}-back"] = {**recover, "input": name}
    return {
        "name": "bench-prune",
        "data": {"corpus": corpus, "tokenizer": {"kind": "bpe", "vocab": 1024}, "context": 128},
        "model": {"dim": 128, "layers": 4, "attention": {"heads": 4}},
        "train": {"batch": 8, "validations": 1, "precision": "fp32", "optimizer": "muon"},
        "stages": stages,
        "report": {"measure": ["evaluate"]},
    }


def stage_name(method: str, share: str) -> str:
    """Return the name of a stage that prunes."""
    return f"{method}-{share.replace(' %', '').replace(':', '-')}"


def main() -> None:
    """Run the recipe and write one row for each model and number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="tiny-shakespeare")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--recovery", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    session = Session(runs=options.runs, threads=1)
    raw = recipe(options.corpus, options.steps, options.recovery)
    result = fw.run(load.recipe(raw), session=session)
    models = {model.name: model for model in result.summary.models}
    rows = Rows("prune")
    for method in ("dense", *METHODS):
        for share in {"dense": ["0 %"]}.get(method, list(SHARES)):
            name = method if method == "dense" else stage_name(method, share)
            for which, stage in ((ONE_SHOT, name), (RECOVERED, f"{name}-back")):
                evaluated = models[stage].evaluate
                assert evaluated is not None
                bits = evaluated.bits_per_byte
                for metric, value in (
                    ("value", bits.value),
                    ("low", bits.low),
                    ("high", bits.high),
                ):
                    rows.add(method, f"{share}, {which}", metric, 0, value, "bits/byte")
                if sparsity := result[stage].facts.get("sparsity"):
                    rows.add(method, f"{share}, {which}", "sparsity", 0, sparsity, "share")
    rows.write()


if __name__ == "__main__":
    main()
