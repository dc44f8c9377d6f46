"""Penn Treebank by words: perplexity on test of the networks of `ptb.yaml`, alone and mixed with counts, beside counting alone.

    python benchmarks/bench_ptb.py [--runs DIR] [--data-dir DIR] [--seeds 0 1 2]

FLOPs and seconds are those of everything that was trained for a model.                             results/ptb.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rows import ROOT, Rows

import flyweight as fw
from flyweight.api import Session

SETTING = "PTB, 10,000 words, context 64"


def main() -> None:
    """Run the recipe for every seed, and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    rows = Rows("ptb")
    for seed in options.seeds:
        run = fw.run(
            ROOT / "benchmarks" / "ptb.yaml", f"seed={seed}", f"name=ptb-{seed}", session=session
        )
        for model in run.summary.models:
            measured, cost = model.evaluate, model.training
            assert measured is not None and cost is not None, "the recipe evaluates what it trains"
            found = {
                "perplexity": (measured.perplexity.value, "a word"),
                "training": (cost.total_seconds, "s"),
                "training FLOPs": (cost.total_flops, "FLOPs"),
            }
            for metric, (value, unit) in found.items():
                rows.add(model.name, SETTING, metric, seed, value, unit)
    print(rows.write())


if __name__ == "__main__":
    main()
