"""Memory of distilling Qwen3-8B, packed as NF4, into DistilQwen3's students: as planned, and as it is.

    python benchmarks/bench_distilqwen3_memory.py [--width 8] [--device cpu] [--memory 20GB]
        [--steps 2] [--only poster]

Student and teacher have a `--width`-th of their widths, heads, hidden channels and vocabulary, all
their layers, and random weights. Two whole steps of 8 x 512 random tokens run in a fresh process on
one thread; `used` is its peak over the interpreter and its imports (on CUDA: what torch allocated).
`planned` is what `flyweight plan` counts. With `--width 1 --device cuda --memory 20GB` these are the
models themselves, torch gets no more than the limit, and a training that takes more fails.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rows import Rows

from flyweight.compression.quantize import quantized
from flyweight.config import catalogue, schema
from flyweight.config.units import parse_size
from flyweight.core.runtime import Runtime
from flyweight.planning import dry_run
from flyweight.training import training_cost
from flyweight.training.planned_training import PlannedTraining

BLOCKS = {"recompute": "blocks"}
STUDENTS: dict[str, tuple[str, dict[str, str], str]] = {
    "poster": ("distilqwen3-poster", BLOCKS, "fp32"),
    "independent": (
        "distilqwen3-independent",
        {**BLOCKS, "states": "int8", "weights": "bf16"},
        "bf16",
    ),
}
"""Each student's shape in the catalogue, what saves memory, and the precision on a CPU."""

BATCH, CONTEXT, VOCABULARY = 8, 512, 151_936


def scaled(name: str, part: int, vocabulary: int) -> schema.ModelConfig:
    """Return a model of the catalogue with a `part` of its widths and heads."""
    fields: dict[str, Any] = catalogue.fields(name)
    fields |= {"vocab_size": vocabulary, "context": CONTEXT, "dim": fields["dim"] // part}
    attention, mlp = dict(fields["attention"]), dict(fields["mlp"])
    for heads in ("heads", "kv_heads"):
        attention[heads] = max(1, attention[heads] // part)
    for size in {"hidden", "rank"} & mlp.keys():
        mlp[size] = mlp[size] // part
    return schema.ModelConfig.model_validate(
        {**fields, "attention": attention, "mlp": mlp}
    ).resolved()


def training(
    student: str, part: int, device: str = "cpu", batch: int = BATCH, context: int = CONTEXT
) -> PlannedTraining:
    """Return the distillation of a student from Qwen3-8B as NF4, at a `part` of the width."""
    name, saving, precision = STUDENTS[student]
    vocabulary = VOCABULARY // part
    teacher = quantized(scaled("qwen3-8b", part, vocabulary), schema.NF4(), schema.Int8())
    train = schema.Train.model_validate(
        {
            "steps": 2,
            "batch": batch,
            "optimizer": {"kind": "adamw", "lr": 8e-6},
            "memory": saving,
            "precision": "bf16" if device != "cpu" else precision,
            "validations": 0,
        }
    )
    return PlannedTraining(
        model=scaled(name, part, vocabulary),
        train=train,
        context=context,
        precision="bf16" if device != "cpu" else precision,  # pyright: ignore[reportArgumentType]
        teacher=teacher,
        objective=schema.Distillation(temperature=2.0, weight=0.8),
    )


def measured(
    planned: PlannedTraining, name: str, device: str, limit: int | None, steps: int
) -> dict[str, float]:
    """Return the bytes that a training needs, as planned and as used, and its seconds a step."""
    expected = dry_run.training_memory(planned, device)
    runtime = Runtime(device, 1, 0)
    found = training_cost.check(
        planned, name, runtime, held=device == "cpu", limit=limit, steps=steps
    )
    return {
        "planned": expected.total,
        "used": found.peak_bytes,
        "seconds": found.seconds_per_step,
        **{f"planned {part}": size for part, size in expected.parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=8, help="8 for an eighth")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", help="such as 20GB")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(STUDENTS), choices=STUDENTS)
    options = parser.parse_args()
    limit = None if options.memory is None else int(parse_size(options.memory))
    rows = Rows("distilqwen3_memory")
    rows.read()
    for name in options.only:
        planned = training(name, options.width, options.device)
        setting = f"{name}, 1/{options.width} of the width, {options.device}"
        rows.found = [row for row in rows.found if row["setting"] != setting]
        found = measured(planned, setting, options.device, limit, options.steps)
        seconds = found.pop("seconds")
        for part, size in found.items():
            who = "flyweight run" if part == "used" else "flyweight plan"
            rows.add(who, setting, part, 0, size / 1e6, "MB")
        rows.add("plan/run", setting, "ratio", 0, found["planned"] / found["used"], "x")
        rows.add("flyweight run", setting, "seconds a step", 0, seconds, "s")
        rows.write()
        if limit is not None and found["used"] > limit:
            raise SystemExit(f"{setting}: {found['used']:,} bytes are more than {limit:,}")


if __name__ == "__main__":
    sys.exit(main())
