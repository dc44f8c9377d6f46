"""Identities that must hold for every decoder, over the tests' whole pairwise sample of configs.

    python benchmarks/bench_identities.py

Each row is the largest violation of one identity: parameters and bytes as counted against as built,
FLOPs against those that torch counts on the meta device, causality, cached against uncached logits,
left padding, saving and loading.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rows import ROOT, Rows

sys.path.insert(0, str(ROOT / "tests"))

from model_identities import IDENTITIES
from model_sample import CONFIGS

from flyweight.config.schema import Deep


def main() -> None:
    rows = Rows("identities")
    thinking = sum(isinstance(config.thinking, Deep) for config in CONFIGS)
    failures = 0
    for name, (measure, bound) in IDENTITIES.items():
        worst = 0.0
        for index in range(len(CONFIGS)):
            with tempfile.TemporaryDirectory() as place:
                worst = max(worst, measure(index, Path(place)))
        rows.add("decoder", name, "largest violation", 0, worst, "")
        rows.add("decoder", name, "bound", 0, bound, "")
        failures += worst > bound
    rows.add("decoder", "sample", "configs", 0, len(CONFIGS), "")
    rows.add("decoder", "sample", "of them thinking", 0, thinking, "")
    rows.write()
    if failures:
        raise SystemExit(f"{failures} identities do not hold")


if __name__ == "__main__":
    main()
