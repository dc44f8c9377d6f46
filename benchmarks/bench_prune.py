"""Bits per byte of pruned models: each method at each sparsity, one-shot and after recovery.

    python benchmarks/bench_prune.py [--runs DIR] [--data-dir DIR]

The base of `wikitext2-base.yaml` is pruned and trained on 5 % of its tokens further. `base` is the
model as it was and, under `after recovery`, trained further for as long. Numbers are of the test
split, on which nothing is chosen. `sweep` chooses a sparsity by magnitude that costs at most 1
perplexity: on the first 1,000 tokens of the validation split, as papers do, beside all of it.
"""

from __future__ import annotations

from typing import Any

import wikitext2
from rows import Rows

from flyweight.api import Session

METHODS = ("random", "magnitude", "wanda", "sparsegpt")
SHARES: dict[str, dict[str, Any]] = {
    "30 %": {"sparsity": 0.3},
    "50 %": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "80 %": {"sparsity": 0.8},
}
SHARE = 0.05
"""The share of the base's tokens that a recovery reads."""

RECOVERY = {"optimizer": {"kind": "muon", "lr": 0.005, "rest": {"lr": 6e-4}}, "validations": 0}
SWEEP = {
    "stage": "prune",
    "input": wikitext2.BASE,
    "method": "magnitude",
    "scope": "global",
    "sparsity": {
        "among": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        "within": {"perplexity": 1.0},
        "tokens": 1000,
    },
}


def pruned() -> dict[str, tuple[str, str]]:
    """Return method and sparsity of every stage that prunes, by its name."""
    return {
        f"{method}-{share.replace(' %', '').replace(':', '-')}": (method, share)
        for method in METHODS
        for share in SHARES
    }


def stages() -> dict[str, wikitext2.Stage]:
    """Return the base pruned in every way, and each of these trained further."""
    found = {"base-back": wikitext2.trained(wikitext2.BASE, SHARE, RECOVERY)}
    for name, (method, share) in pruned().items():
        found[name] = {
            "stage": "prune",
            "input": wikitext2.BASE,
            "method": method,
            **SHARES[share],
        }
        found[f"{name}-back"] = wikitext2.trained(name, SHARE, RECOVERY)
    return found


def add_sweep(rows: Rows, facts: dict[str, Any]) -> None:
    """Add what each sparsity of the sweep costs, on few tokens and on all."""
    for row in facts["sweep"]:
        share = f"sweep, {row['sparsity']:.0%}"
        for name, found in (("1,000 tokens", "perplexity_cost"), ("all tokens", "whole_cost")):
            for end, metric in (("value", ""), ("low", " low"), ("high", " high")):
                cost = row[found][end]
                rows.add(name, share, f"more perplexity{metric}", 0, cost, "perplexity")


def main() -> None:
    """Prune, train, and write the rows."""
    options = wikitext2.options(__doc__)
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    made = stages()
    swept = wikitext2.run("bench-sweep", {"swept": SWEEP}, [], session)
    rows = Rows("prune")
    add_sweep(rows, swept["swept"].facts)
    result = wikitext2.run("bench-prune", made, made, session)
    models = wikitext2.references("bench-prune", made)
    wikitext2.add_comparison(rows, wikitext2.SETTING, models, session)
    for name in pruned():
        sparsity = result[name].facts["sparsity"]
        rows.add(name, wikitext2.SETTING, "sparsity", 0, sparsity, "share")
        back = result[f"{name}-back"].facts["sparsity"]
        rows.add(f"{name}-back", wikitext2.SETTING, "sparsity", 0, back, "share")
    print(rows.write())


if __name__ == "__main__":
    main()
