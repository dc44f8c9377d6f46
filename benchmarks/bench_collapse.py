"""Why the published rungs with tied embeddings collapse: how far the last hidden state follows the tokens at initialisation.

    python benchmarks/bench_collapse.py [--small]

The relative change of the last hidden state when every token is replaced (the audit's
`initial_token_sensitivity`, whose bound is 0.2), for the published and the repaired rungs at full
size, and for rung 8 at the size of `compact-ladder-small` with one thing changed at a time.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from rows import Rows

from flyweight.config import catalogue, load
from flyweight.evaluation.checks import Subject, initial_sensitivity
from flyweight.model.build import build

RUNGS = [f"{rung}{repaired}" for repaired in ("", "r") for rung in range(1, 10)]
SMALL = {
    "vocab_size": 1024,
    "context": 64,
    "dim": 64,
    "layers": 5,
    "attention": {"heads": 4, "kv_heads": 1, "head_dim": 16},
    "mlp": {"hidden": 192},
    "init": {"std": 0.072, "embedding": 0.072},
}
PRE: dict[str, Any] = {"norm": {"placement": "pre", "final": True}}
CHANGES: dict[str, dict[str, Any]] = {
    "as published": {},
    "embedding std 0.2": {"init": {"embedding": 0.2}},
    "embedding std 1": {"init": {"embedding": 1.0}},
    "RoPE": {"position": "rope"},
    "no positions": {"position": "none"},
    "pre-norm": PRE,
    "pre-norm, RoPE": {**PRE, "position": "rope"},
    "no sharing": {"sharing": "none"},
    "plain residual": {"residual": "add"},
    "1 layer, twice": {"layers": 1},
    "15 layers, twice": {"layers": 15},
}


def sensitivity(fields: dict[str, Any], seed: int) -> float:
    """Return the sensitivity of a model of these fields at its initialisation."""
    model = build(
        load.resolved(load.model_config(fields, "collapse"), "collapse"), seed=seed
    ).eval()
    with torch.no_grad():
        measured = initial_sensitivity(Subject(None, model, seed=seed)).measured
    assert measured is not None
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="leave the full-size rungs out: a minute less"
    )
    options = parser.parse_args()
    rows = Rows("collapse")
    for change, fields in CHANGES.items():
        config = load.merge(load.merge(catalogue.fields("compact-ladder/8"), SMALL), fields)
        for seed in range(5):
            rows.add(
                "rung 8, small", change, "initial sensitivity", seed, sensitivity(config, seed), ""
            )
    for rung in [] if options.small else RUNGS:
        rows.add(
            f"rung {rung}",
            "full size",
            "initial sensitivity",
            0,
            sensitivity(catalogue.fields(f"compact-ladder/{rung}"), 0),
            "",
        )
    rows.write()


if __name__ == "__main__":
    main()
