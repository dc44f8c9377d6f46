"""A plan's memory against what training really takes, in a fresh process for every config.

    python benchmarks/bench_plan_memory.py [--only WORD ...] [--steps 2] [--keep]

The configs are a sample (`memory_sample`). A child process plans the training as `run` does with
`budget.memory`, then trains for a few steps with one validation. It tells the most memory that it
held over what the interpreter held before: what the budget counts. `ratio` is planned / measured,
`seconds` the processor's for the plan with its dry run, which loads libraries first. With `--keep` configs that the last run measured are
left out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memory_sample import AVERAGED, SCALED, SMALL, Sampled, sampled
from rows import Rows, worker

BASE_TOKENS = 16
"""Tokens of the one step that makes a base or a teacher: its weights do not matter."""

LARGE = 300e6
"""Bytes from which a run counts among the large ones."""


def text(folder: Path, vocab: int) -> Path:
    """Return a text of documents of made-up words, with so many different ones; `vocab` tokens."""
    path = folder / f"words-{vocab}.txt"
    if path.exists():
        return path
    draw = random.Random(0)
    words = [f"w{number}" for number in range(vocab - 2)]  # with <unk> and <eos>
    all_of_them = [" ".join(words[at : at + 20]) for at in range(0, len(words), 20)]
    lines = [" ".join(draw.choices(words, k=20)) for _ in range(3000)]
    path.write_text("\n".join([*all_of_them, *lines]) + "\n")
    return path


def recipe(case: Sampled, folder: Path, steps: int, base: str | None) -> dict[str, Any]:
    """Return the recipe of one training; `base` is the folder of what it begins with or learns from."""
    data = {
        "corpus": str(text(folder, case.vocab)),
        "tokenizer": {"kind": "word", "vocab": case.vocab},
        "context": case.context,
        "documents": case.documents,
    }
    train = {**case.train, "steps": steps, "validations": 1, "validation_tokens": 4096}
    stage: dict[str, Any] = {"stage": "pretrain", "data": data, "train": train}
    if case.method:
        stage |= {"stage": "finetune", "input": base, "method": case.method}
    else:
        stage |= {"model": case.model}
    if case.teacher:
        objective = {"divergence": case.divergence, "temperature": 2.0}
        stage |= {"stage": "distill", "teacher": base, "objective": objective}
    budget = {"memory": "1TB"}  # never reached: memory is counted in a dry run, and given back
    report = {"measure": []}
    return {"name": "memory", "budget": budget, "stages": {"model": stage}, "report": report}


def prepared(case: Sampled, folder: Path) -> str | None:
    """Make what a training begins with or learns from, and return its folder."""
    from flyweight.api import Session
    from flyweight.config import load
    from flyweight.pipeline.runner import Runner

    if not (case.method or case.teacher):
        return None
    whole = recipe(Sampled("", {}, {}, case.vocab), folder, 1, None)
    model = {**(case.model if case.method else case.taught_by), "context": 1024}
    stage = whole["stages"]["model"]
    stage["data"]["context"] = BASE_TOKENS
    stage |= {"model": model}
    stage["train"] |= {"batch": 1, "precision": "fp32", "validations": 0, "keep": "last"}
    stages = {"base": stage}
    kind = case.base if case.method else case.teacher
    if kind != "dense":
        stages["packed"] = {"stage": "quantize", "input": "base", "kind": kind}
    checked = load.recipe({**whole, "stages": stages})
    runner = Runner(Session(runs=folder / "runs", threads=1).context(seed=0))
    artifact = runner.make("base", checked.stages["base"], {}).artifact
    if "packed" in stages:
        artifact = runner.make("packed", checked.stages["packed"], {"input": artifact}).artifact
    return str(artifact.path)


def measured(job: Mapping[str, Any]) -> dict[str, Any]:
    """Plan and train one config in this process; return bytes as planned and as used."""
    import logging

    from flyweight.api import Session
    from flyweight.api.targets import vocabularies
    from flyweight.checkpoints.load_any import own_config
    from flyweight.config import load, schema
    from flyweight.core.allocator import give_back_at_once
    from flyweight.core.machine import high_water_bytes, reset_high_water, resident_bytes
    from flyweight.pipeline.runner import Runner
    from flyweight.planning import planner as plans
    from flyweight.planning.time import Machine
    from flyweight.store.artifact import Artifact

    logging.disable(logging.WARNING)
    folder = Path(job["folder"])
    checked = load.recipe(job["recipe"])
    context = Session(runs=folder / "runs", threads=1).context(checked.budget, seed=0)
    give_back_at_once()
    artifacts, known = dict[str, Artifact](), dict[str, schema.Architecture]()
    if base := job["base"]:
        artifact = Artifact.open(Path(base))
        stage = checked.stages["model"]
        artifacts = dict.fromkeys(stage.references, artifact)
        known = {job["base"]: own_config(artifact.path / "model", "base")}
    machine = Machine.of(context.store, context.runtime)

    def plan(dry_run: bool) -> plans.Plan:
        sizes = vocabularies(context.store)
        return plans.plan(checked, machine, sizes, known=known, dry_run=dry_run)

    runner = Runner(context)
    runner.corpus(checked.stages["model"].data, artifacts.get("input") or artifacts.get("teacher"))
    plan(dry_run=False)  # the machine's speed is measured once
    began = time.process_time()
    planned = plan(dry_run=True).stages[-1].memory
    seconds = time.process_time() - began
    before = resident_bytes() - context.meter.baseline_bytes
    if not reset_high_water():
        raise SystemExit("this system cannot reset the high-water mark of a process")
    runner.make("model", checked.stages["model"], artifacts)
    used = high_water_bytes() - context.meter.baseline_bytes
    after = resident_bytes() - context.meter.baseline_bytes
    return {
        "used": used,
        "planned": planned.total,
        "parts": planned.parts,
        "method": planned.method,
        "seconds": seconds,
        "before": before,
        "after": after,
    }


def compared(case: Sampled, folder: Path, steps: int) -> dict[str, Any]:
    """Return the bytes of one config, planned and used, from a fresh process."""
    base = prepared(case, folder)
    asked = {"folder": str(folder), "recipe": recipe(case, folder, steps, base), "base": base}
    return worker(__file__, asked)


def summary(found: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return how far off plans are, of (planned, used) bytes by config."""
    large = {name: pair for name, pair in found.items() if pair[1] >= LARGE}
    errors = [planned / used - 1 for planned, used in large.values()]
    small = [abs(planned - used) for name, (planned, used) in found.items() if name not in large]
    return {
        "configs of 300 MB and more": len(large),
        "median error": statistics.median(map(abs, errors)),
        "share within 10 %": sum(abs(error) <= 0.1 for error in errors) / len(errors),
        "most under": -min(errors),
        "most over": max(errors),
        "small runs": len(small),
        "small runs, largest difference in MB": max(small, default=0) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="configs whose names hold one of these words")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--log", type=Path, help="a file for all parts, as JSON lines")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(json.loads(options.worker))))
        return
    rows, found = Rows("plan_memory"), dict[str, tuple[float, float]]()
    if options.keep:
        rows.read()
    known = {row["setting"] for row in rows.found}
    with tempfile.TemporaryDirectory() as place:
        for case in [*sampled(), *SCALED, *SMALL, *AVERAGED]:
            asked = not options.only or any(word in case.name for word in options.only)
            if not asked or case.name in known:
                continue
            result = compared(case, Path(place), options.steps)
            planned, used = result["planned"], result["used"]
            rows.add("flyweight plan", case.name, "planned", 0, planned / 1e6, "MB")
            rows.add("flyweight plan", case.name, "seconds", 0, result["seconds"], "s")
            rows.add("flyweight run", case.name, "used", 0, used / 1e6, "MB")
            rows.add("plan/run", case.name, "ratio", 0, planned / used, "x")
            found[case.name] = (planned, used)
            rows.write()
            if options.log:
                with open(options.log, "a", encoding="utf-8") as file:
                    print(json.dumps({**asdict(case), **result}), file=file)
    for name, value in summary(found).items():
        print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    sys.exit(main())
