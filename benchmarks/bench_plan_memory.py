"""A plan's memory against what training really takes, in a fresh process for every config.

    python benchmarks/bench_plan_memory.py [--only NAME ...] [--steps 4]

A child process packs a text of made-up words, trains for a few steps with one validation, and tells
the most memory that it held over what the interpreter held before: what `budget.memory` counts.
`ratio` is planned / measured.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import Rows, worker

MUON = {"kind": "muon"}
DECODER: dict[str, Any] = {"dim": 128, "layers": 4}

Config = tuple[dict[str, Any], dict[str, Any], int, int]
CONFIGS: dict[str, Config] = {  # model, train, vocabulary, context
    "50 k": ({"dim": 48, "layers": 1}, {}, 300, 64),
    "100 k, bf16": ({"dim": 64, "layers": 1}, {"precision": "bf16"}, 600, 128),
    "quickstart's student": (
        {"dim": 64, "layers": 2, "mlp": "relu2"},
        {"batch": 4, "optimizer": MUON},
        4096,
        256,
    ),
    "quickstart's teacher": (
        {**DECODER, "mlp": "relu2"},
        {"batch": 4, "optimizer": MUON},
        4096,
        256,
    ),
    "4 x 128": (DECODER, {}, 4096, 256),
    "4 x 128, bf16": (DECODER, {"precision": "bf16"}, 4096, 256),
    "4 x 128, accumulate 4": (DECODER, {"accumulate": 4}, 4096, 256),
    "4 x 128, dropout": ({**DECODER, "dropout": 0.1}, {}, 4096, 256),
    "4 x 128, dropout, bf16": ({**DECODER, "dropout": 0.1}, {"precision": "bf16"}, 4096, 256),
    "4 x 128, dropout of the MLP alone": ({**DECODER, "dropout": {"mlp": 0.1}}, {}, 4096, 256),
    "1 x 128 shared 12 times": (
        {"dim": 128, "layers": 1, "sharing": {"kind": "all", "times": 12}},
        {},
        4096,
        256,
    ),
    "4 x 128 repeated": ({**DECODER, "sharing": "repeat"}, {}, 4096, 256),
    "2 x 128, thinking": ({"dim": 128, "layers": 2, "thinking": {"passes": 2}}, {}, 4096, 256),
    "2 x 128, thinking, updated memory": (
        {"dim": 128, "layers": 2, "thinking": {"passes": 2, "memory": "first", "learned": True}},
        {},
        1000,
        128,
    ),
    "exact bigrams": ({**DECODER, "embedding": {"bigram": "exact"}}, {}, 300, 128),
    "hashed bigrams": (
        {**DECODER, "embedding": {"bigram": {"kind": "hashed", "buckets": 20_000}}},
        {},
        4096,
        128,
    ),
    "gelu, bias, layernorm": (
        {
            **DECODER,
            "mlp": {"kind": "gelu", "bias": True},
            "norm": "layernorm",
            "attention": {"bias": True},
        },
        {},
        4096,
        256,
    ),
    "qk norm, gain, kv heads": (
        {
            "dim": 128,
            "layers": 4,
            "attention": {"heads": 4, "kv_heads": 1, "qk_norm": True, "gain": True},
        },
        {},
        4096,
        256,
    ),
    "factorised embedding, low-rank MLP": (
        {**DECODER, "embedding": {"rank": 32}, "mlp": {"kind": "swiglu", "rank": 32}},
        {},
        4096,
        256,
    ),
    "untied, softcap": (
        {**DECODER, "embedding": {"tied": False}, "head": {"softcap": 15.0}},
        {},
        4096,
        256,
    ),
    "context 1024": ({**DECODER, "position": "learned"}, {"batch": 4}, 1000, 1024),
    "6 x 384": ({"dim": 384, "layers": 6}, {"batch": 8}, 4096, 256),
    "6 x 384, bf16": ({"dim": 384, "layers": 6}, {"batch": 8, "precision": "bf16"}, 4096, 256),
    "6 x 256, V 50 k": ({"dim": 256, "layers": 6}, {"batch": 8}, 50_000, 256),
    "6 x 256, V 50 k, bf16, muon": (
        {"dim": 256, "layers": 6},
        {"batch": 8, "precision": "bf16", "optimizer": MUON},
        50_000,
        256,
    ),
    "lstm": ({"kind": "lstm", "dim": 128, "layers": 2}, {}, 4096, 128),
    "lstm, bf16, dropout": (
        {"kind": "lstm", "dim": 128, "layers": 2, "dropout": 0.1},
        {"precision": "bf16"},
        4096,
        128,
    ),
    "mlp": ({"kind": "mlp", "dim": 64, "hidden": 256, "layers": 2, "history": 16}, {}, 4096, 128),
    "mlp, bf16": (
        {"kind": "mlp", "dim": 64, "hidden": 256, "layers": 2, "history": 16},
        {"precision": "bf16"},
        4096,
        128,
    ),
    "linear": ({"kind": "linear", "dim": 32, "history": 8}, {}, 4096, 128),
}
DISTILLED = {
    "distilled from 4 x 128": ({"dim": 64, "layers": 2}, {"batch": 4}, 4096, 256),
    "distilled from 4 x 128, bf16": (
        {"dim": 64, "layers": 2},
        {"batch": 8, "precision": "bf16"},
        4096,
        256,
    ),
}


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Train one config for a few steps in this process; return bytes as planned and as used."""
    import logging

    from flyweight.api import Session
    from flyweight.config import load, schema
    from flyweight.core.machine import high_water_bytes, reset_high_water
    from flyweight.pipeline import recipe as recipes
    from flyweight.planning import planner as plans
    from flyweight.planning.time import Machine

    logging.disable(logging.WARNING)
    folder = Path(job["folder"])
    checked = load.recipe(job["recipe"])
    session = Session(runs=folder / "runs", threads=job["threads"])
    context = session.context(seed=0)
    teacher = checked.stages.get("teacher")
    artifacts = (
        {}
        if teacher is None
        else {"teacher": recipes.Runner(context).make("teacher", teacher, {}).artifact}
    )
    if job["prepare"]:  # the teacher alone: trained in the measured process it would be the peak
        return {}
    context = session.context(seed=0)
    if not reset_high_water():
        raise SystemExit("this system cannot reset the high-water mark of a process")
    stage = checked.stages["model"]
    assert isinstance(stage, schema.Pretrain | schema.Distill)
    runner = recipes.Runner(context)
    made = runner.make("model", stage, artifacts)
    used = high_water_bytes() - context.meter.baseline_bytes
    machine = Machine.of(context.store, context.runtime)
    vocabularies = {plans.vocabulary_key(made.config.data): made.config.model.vocab_size}
    planned = plans.plan(checked, machine, vocabularies).stages[-1].memory
    return {
        "used": used,
        "planned": planned.total,
        "parts": planned.parts,
        "watched": context.meter.peak_bytes,
    }


def job(config: Config, folder: Path, steps: int, distilled: bool, threads: int) -> dict[str, Any]:
    """Return what a child process is asked to do."""
    model, train, vocab, context = config
    text = folder / f"words-{vocab}.txt"
    if not text.exists():
        draw = random.Random(0)
        words = [f"w{number}" for number in range(vocab - 2)]
        lines = [
            " ".join(draw.choice(words) for _ in range(20)) for _ in range(max(3000, vocab // 8))
        ]
        text.write_text(
            "\n".join([*(" ".join(words[i : i + 20]) for i in range(0, len(words), 20)), *lines])
            + "\n"
        )
    data = {"corpus": str(text), "tokenizer": {"kind": "word", "vocab": vocab}, "context": context}
    train = {
        "precision": "fp32",
        **train,
        "steps": steps,
        "validations": 1,
        "validation_tokens": 4096,
    }
    stages: dict[str, Any] = {
        "model": {"stage": "pretrain", "model": model, "data": data, "train": train}
    }
    if distilled:
        teacher = {
            "stage": "pretrain",
            "model": DECODER,
            "data": data,
            "train": {**train, "steps": 1},
        }
        stages = {
            "teacher": teacher,
            "model": {**stages["model"], "stage": "distill", "teacher": "teacher"},
        }
    budget = {"memory": "1TB"}  # never reached: memory is counted in a dry run, and given back
    recipe = {"name": "memory", "budget": budget, "stages": stages, "report": {"measure": []}}
    return {"folder": str(folder), "recipe": recipe, "threads": threads, "prepare": False}


def compared(
    config: Config, folder: Path, steps: int = 4, distilled: bool = False, threads: int = 1
) -> dict[str, Any]:
    """Return the bytes of one config, planned and used, from a fresh process."""
    asked = job(config, folder, steps, distilled, threads)
    if distilled:
        worker(__file__, {**asked, "prepare": True})
    return worker(__file__, asked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(json.loads(options.worker))))
        return
    rows, ratios = Rows("plan_memory"), dict[str, float]()
    with tempfile.TemporaryDirectory() as place:
        for name, config in {**CONFIGS, **DISTILLED}.items():
            if options.only and name not in options.only:
                continue
            found = compared(config, Path(place), options.steps, name in DISTILLED, options.threads)
            rows.add("flyweight plan", name, "planned", 0, found["planned"] / 1e6, "MB")
            rows.add("flyweight run", name, "used", 0, found["used"] / 1e6, "MB")
            ratios[name] = found["planned"] / found["used"]
            rows.add("plan/run", name, "ratio", 0, ratios[name], "x")
            print(
                {key: round(value / 1e6, 1) for key, value in found["parts"].items()},
                file=sys.stderr,
            )
    ordered = sorted(ratios.values())
    print(
        rows.write(),
        f"planned / used: {ordered[0]:.2f} to {ordered[-1]:.2f}, {len(ordered)} configs",
        sep="\n",
    )


if __name__ == "__main__":
    sys.exit(main())
