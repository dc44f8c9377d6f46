"""What training for a rounding is worth: int3 by it, by GPTQ, and by GPTQ after as much training without.

    python benchmarks/bench_round.py [--runs DIR] [--data-dir DIR]

The base of `wikitext2-base.yaml` is trained on 5 % of its tokens further, with its blocks rounded to
int3 as they are read (then rounded to nearest), and without (then rounded by GPTQ). Both are tried
with the same optimizers, rates and sizes of batches, of which validation text chooses. `more bits`
is the difference to the base, paired on the test split, on which nothing is chosen.
"""

from __future__ import annotations

from typing import Any

import wikitext2
from bench_quantize import CALIBRATION, KINDS, quantized
from rows import Rows

from flyweight.api import Session

SHARE = 0.05
"""The share of the base's tokens that is trained on further."""

ADAMW = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
MUON = (1e-2, 3e-3, 1e-3)
SMALL_BATCH = (1e-4, 3e-5)


def tries() -> dict[str, dict[str, Any]]:
    """Return what is tried of a training, by name."""
    return {
        **{f"adamw-{rate:.0e}": {"optimizer": {"kind": "adamw", "lr": rate}} for rate in ADAMW},
        **{
            f"muon-{rate:.0e}": {
                "optimizer": {"kind": "muon", "lr": rate, "rest": {"lr": rate / 10}}
            }
            for rate in MUON
        },
        **{
            f"adamw-{rate:.0e}-batch-2": {"optimizer": {"kind": "adamw", "lr": rate}, "batch": 2}
            for rate in SMALL_BATCH
        },
    }


def stages() -> dict[str, wikitext2.Stage]:
    """Return the trainings with and without rounding, and the best of each rounded."""
    gptq = {"rounding": "gptq", "calibration": {"tokens": CALIBRATION}}
    kind = KINDS["int3"]
    found = {"int3-gptq": quantized(wikitext2.BASE, kind, **gptq)}
    for name, fields in (("for-int3", {"round": kind}), ("on", {})):
        among = [f"{name}-{one}" for one in tries()]
        for stage, train in zip(among, tries().values(), strict=True):
            found[stage] = wikitext2.trained(wikitext2.BASE, SHARE, train, **fields)
        found[f"trained-{name}"] = {"stage": "select", "among": among}
    found["int3-trained"] = quantized("trained-for-int3", kind)
    found["on-int3"] = quantized("trained-on", kind)
    found["on-int3-gptq"] = quantized("trained-on", kind, **gptq)
    return found


COMPARED = ("int3-gptq", "trained-on", "int3-trained", "on-int3", "on-int3-gptq")
PAIRS = (
    ("int3-trained", "int3-gptq"),
    ("int3-trained", "on-int3-gptq"),
    ("on-int3-gptq", "int3-gptq"),
)


def main() -> None:
    """Train, round, and write the rows."""
    options = wikitext2.options(__doc__)
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    result = wikitext2.run("bench-round", stages(), COMPARED, session)
    rows = Rows("round")
    for name in (f"{how}-{one}" for how in ("for-int3", "on") for one in tries()):
        nll = result[name].facts["best_nll"]
        rows.add(name, wikitext2.SETTING, "validation", 0, nll, "nats per token")
    models = wikitext2.references("bench-round", COMPARED)
    wikitext2.add_comparison(rows, wikitext2.SETTING, models, session)
    for better, worse in PAIRS:
        wikitext2.add_pair(rows, wikitext2.SETTING, models, better, worse, session)
    print(rows.write())


if __name__ == "__main__":
    main()
