"""Bits per byte of pruned models: each method at each sparsity, one-shot and after recovery.

    python benchmarks/bench_prune.py [--runs DIR] [--data-dir DIR] [--quick]

The base of `wikitext2-base.yaml` is pruned (`magnitude-50`) and, at 50 %, trained on 2.5 % of its
tokens further (`magnitude-50-back`); `base-back` is the base itself trained on. `more bits` is the
difference to the base, paired on the last tenth of the test split, on which nothing is chosen.
`sweep` chooses a sparsity by magnitude that costs at most 1 perplexity: on the first 1,000 tokens of
the validation split, as papers do, beside all of it. `--quick` trains nothing.
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
SHARE = 0.025
"""The share of the base's tokens that a recovery reads."""

RECOVERED = ("50 %",)
RECOVERY = {"optimizer": {"kind": "muon", "lr": 0.005, "rest": {"lr": 6e-4}}, "validations": 0}
SWEEP = {
    "stage": "prune",
    "input": wikitext2.BASE,
    "method": "magnitude",
    "scope": "global",
    "sparsity": {
        "among": [0.2, 0.3, 0.4, 0.5, 0.6],
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


def stages(quick: bool) -> dict[str, wikitext2.Stage]:
    """Return the base pruned in every way and, unless it is to be quick, some trained further."""
    found: dict[str, wikitext2.Stage] = {"swept": SWEEP}
    if not quick:
        found["base-back"] = wikitext2.trained(wikitext2.BASE, SHARE, RECOVERY)
    for name, (method, share) in pruned().items():
        found[name] = {
            "stage": "prune",
            "input": wikitext2.BASE,
            "method": method,
            **SHARES[share],
        }
        if share in RECOVERED and not quick:
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
    parser = wikitext2.parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    made = stages(options.quick)
    result = wikitext2.run("bench-prune", made, None, session)
    rows = Rows("prune")
    add_sweep(rows, result["swept"].facts)
    models = wikitext2.references("bench-prune", [name for name in made if name != "swept"])
    text = wikitext2.last_tenth(options.data_dir)
    wikitext2.add_comparison(rows, wikitext2.LAST_TENTH, models, session, **text)
    for name in models:
        if sparsity := result[name].facts.get("sparsity"):
            rows.add(name, wikitext2.LAST_TENTH, "sparsity", 0, sparsity, "share")
    print(rows.write())


if __name__ == "__main__":
    main()
