"""What is worth something on a text that is read many times: each of the fields of docs/repeated.md, beside its control.

    python benchmarks/bench_repeated.py [--runs DIR] [--data-dir DIR] [--seeds 0 1] [--quick]

The first tenth of Tiny Shakespeare's training text is read ten times by 4 x 96; its last 10 % choose (the first half)
and report (the second). Every stage reads the same tokens and keeps the best of eight validations. `more bits` is the
paired difference to `plain` on the test half, of one training each.                     results/repeated.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rows import ROOT, Rows

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load

PLAIN = "plain"
READ = 100_000
"""Characters of the training text, which is read `EPOCHS` times."""

EPOCHS = 10
BATCH, CONTEXT = 12, 128
STEPS = READ * EPOCHS // (BATCH * CONTEXT)
SETTING = "4 x 96, 100,000 characters read 10 times"
Stage = dict[str, Any]


def text(data_dir: Path, folder: Path) -> tuple[Path, float]:
    """Write the shortened text; return its path and the share of each of the two held-out halves."""
    whole = (data_dir / "tiny-shakespeare" / "input.txt").read_text(encoding="utf-8")
    held_out = whole[-(len(whole) // 10) :]
    path = folder / "tenth.txt"
    path.write_text(whole[:READ] + held_out, encoding="utf-8")
    return path, len(held_out) / 2 / (READ + len(held_out))


def stages(steps: int) -> dict[str, Stage]:
    """Return the plain training, each way beside it, students and mixtures."""
    model: dict[str, Any] = {
        "dim": 96,
        "layers": 4,
        "attention": {"heads": 3},
        "mlp": "relu2",
        "norm": "layernorm",
        "embedding": {"bigram": "exact"},
        "init": {"zero_out": True},
    }
    train: dict[str, Any] = {
        "steps": steps,
        "batch": BATCH,
        "optimizer": {"kind": "muon", "lr": 0.02, "rest": {"lr": 6e-3}},
        "schedule": {"warmup": 0.02, "tail": "linear", "tail_from": 0.3},
    }

    def trained(of: dict[str, Any] | None = None, /, **more: Any) -> Stage:
        return {"stage": "pretrain", "model": {**model, **(of or {})}, "train": {**train, **more}}

    def taught(teacher: str | list[str], **more: Any) -> Stage:
        told = {"told": {"k": 16}} if isinstance(teacher, list) else {}
        student = {"model": {**model, **more}, "train": train}
        return {"stage": "distill", "teacher": teacher, **told, **student}

    def heads(**fields: Any) -> dict[str, Any]:
        return {"attention": {"heads": 3, **fields}}

    def decayed(decay: float) -> dict[str, Any]:
        rest = {"lr": 6e-3, "weight_decay": decay}
        return {"optimizer": {"kind": "muon", "lr": 0.02, "weight_decay": decay, "rest": rest}}

    wide: dict[str, Any] = {"dim": 192, "attention": {"heads": 3}}
    dropout: dict[str, Any] = {"dropout": {"residual": 0.1}}
    return {
        PLAIN: trained(snapshots=[0.5, 0.75]),
        "input-noise": trained(input_noise=0.1),
        "dropout": trained(dropout),
        "stochastic-depth": trained({"dropout": {"depth": 0.2}}),
        "value-residual": trained(heads(value_residual=True)),
        "head-gates": trained(heads(gate=True)),
        "skips-unet": trained({"skips": "unet"}),
        "skips-embedding": trained({"skips": "embedding"}),
        "average": trained(average={"decay": 0.99}),
        "decay-x-10": trained(**decayed(1.0)),
        "twice-as-wide": trained(wide),
        "twice-as-wide-decay-x-10": trained(wide, **decayed(1.0)),
        "twice-as-wide-dropout": trained({**wide, **dropout}),
        "second-generation": taught(PLAIN),
        "third-generation": taught("second-generation"),
        "taught-by-snapshots": taught([PLAIN, f"{PLAIN}@0.5", f"{PLAIN}@0.75"]),
        "taught-by-three": taught(["input-noise", "dropout", "average"]),
        "taught-by-the-wide-one-dropout": taught("twice-as-wide-dropout", **dropout),
        "counts-mixed-in": {"stage": "mix", "input": PLAIN, "pointer": None},
    }


def measure(rows: Rows, seed: int, options: argparse.Namespace) -> None:
    """Train everything with one seed, and add what the test half says of it."""
    corpus, share = text(options.data_dir, options.runs)
    made = stages(STEPS // 50 if options.quick else STEPS)
    raw = {
        "name": f"bench-repeated-{seed}",
        "seed": seed,
        "data": {
            "corpus": str(corpus),
            "tokenizer": "char",
            "context": CONTEXT,
            "validation": share,
            "test": share,
        },
        "stages": made,
        "report": {"compare": list(made), "measure": ["evaluate"]},
    }
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    run = fw.run(load.recipe(raw), session=session)
    references = {f"{raw['name']}:{name}": name for name in made}
    first = next(iter(references))
    for row in fw.compare(*references, against=first, session=session):
        name = references[row.name]
        validation = run[name].facts.get("validation_nll")
        if validation is not None:
            rows.add(name, SETTING, "nats on validation", seed, validation, "nats/char")
        rows.add(name, SETTING, "bits per byte", seed, row.bits_per_byte, "bits")
        if row.paired is None:
            continue
        found = row.paired.decisive
        for end, value in (("", found.value), (" low", found.low), (" high", found.high)):
            rows.add(name, SETTING, f"more bits{end}", seed, value, "bits per byte")


def main() -> None:
    """Measure every seed, and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--quick", action="store_true", help="train for a fiftieth")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    rows = Rows("repeated")
    for seed in options.seeds:
        measure(rows, seed, options)
    print(rows.write())


if __name__ == "__main__":
    main()
