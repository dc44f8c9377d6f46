"""What training for a rounding is worth: int3 by it, by GPTQ, and by GPTQ after as much training without.

    python benchmarks/bench_round.py [--runs DIR] [--data-dir DIR]

The base of `wikitext2-base.yaml` is trained on 5 % of its tokens further, with its blocks rounded to
int3 as they are read (then rounded to nearest), and without (then rounded by GPTQ). Both are tried
by AdamW at the same rates, and with rounding by Muon too; validation text chooses.
`int3-distilled` learns from the base in float32, by half of the loss or by all of it. `more bits`
is the difference to the base, paired on the last tenth of the test split, on which nothing is
chosen.
"""

from __future__ import annotations

from typing import Any

import wikitext2
from bench_quantize import CALIBRATION, KINDS, quantized
from rows import Rows

from flyweight.api import Session

SHARE = 0.05
"""The share of the base's tokens that is trained on further."""

ADAMW: dict[str, dict[str, Any]] = {
    f"adamw-{rate:.0e}": {"kind": "adamw", "lr": rate} for rate in (3e-4, 1e-4, 3e-5)
}
MUON: dict[str, dict[str, Any]] = {
    "muon-3e-03": {"kind": "muon", "lr": 3e-3, "rest": {"lr": 3e-3 / 10}}
}
TRIES = {"for-int3": {**ADAMW, **MUON}, "on": ADAMW}
"""The optimizers and rates with and without rounding, of which validation chooses."""

DISTILLED: dict[str, tuple[float, float]] = {"half": (0.5, 3e-4), "whole": (1.0, 6e-4)}
"""How the base in float32 teaches: its weight in the loss, and AdamW's rate."""


def stages() -> dict[str, wikitext2.Stage]:
    """Return the trainings with and without rounding, and the best of each rounded."""
    gptq = {"rounding": "gptq", "calibration": {"tokens": CALIBRATION}}
    kind = KINDS["int3"]
    found = {"int3-gptq": quantized(wikitext2.BASE, kind, **gptq)}
    for name, fields in (("for-int3", {"round": kind}), ("on", {})):
        among = [f"{name}-{one}" for one in TRIES[name]]
        for stage, optimizer in zip(among, TRIES[name].values(), strict=True):
            train = {"optimizer": optimizer, "validations": 1}
            found[stage] = wikitext2.trained(wikitext2.BASE, SHARE, train, **fields)
        found[f"trained-{name}"] = {"stage": "select", "among": among}
    for name, (weight, rate) in DISTILLED.items():
        train = {"optimizer": {"kind": "adamw", "lr": rate}, "validations": 1}
        found[f"distilled-{name}"] = wikitext2.distilled(
            wikitext2.BASE, SHARE, train, round=kind, objective={"weight": weight}
        )
    among = [f"distilled-{name}" for name in DISTILLED]
    found["distilled-for-int3"] = {"stage": "select", "among": among}
    found["int3-distilled"] = quantized("distilled-for-int3", kind)
    found["int3-trained"] = quantized("trained-for-int3", kind)
    found["on-int3"] = quantized("trained-on", kind)
    found["on-int3-gptq"] = quantized("trained-on", kind, **gptq)
    return found


COMPARED = ("int3-gptq", "trained-on", "int3-trained", "int3-distilled", "on-int3", "on-int3-gptq")
PAIRS = (
    ("int3-trained", "int3-gptq"),
    ("int3-trained", "on-int3-gptq"),
    ("int3-distilled", "int3-trained"),
    ("int3-distilled", "int3-gptq"),
    ("int3-distilled", "on-int3-gptq"),
    ("on-int3-gptq", "int3-gptq"),
)


def main() -> None:
    """Train, round, and write the rows."""
    options = wikitext2.parser(__doc__).parse_args()
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    result = wikitext2.run("bench-round", stages(), None, session)
    rows = Rows("round")
    tried = [f"{how}-{one}" for how, tries in TRIES.items() for one in tries]
    for name in (*tried, *(f"distilled-{name}" for name in DISTILLED)):
        nll = result[name].facts["best_nll"]
        rows.add(name, wikitext2.SETTING, "validation", 0, nll, "nats per token")
    models = wikitext2.references("bench-round", COMPARED)
    text, setting = wikitext2.last_tenth(options.data_dir), wikitext2.LAST_TENTH
    wikitext2.add_comparison(rows, setting, models, session, **text)
    for better, worse in PAIRS:
        wikitext2.add_pair(rows, setting, models, better, worse, session, **text)
    print(rows.write())


if __name__ == "__main__":
    main()
