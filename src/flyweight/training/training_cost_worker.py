"""The process that measures a training: a request in, an answer out, both JSON."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flyweight.config import schema
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import STAGE_CONFIGS
from flyweight.core import accelerator, allocator
from flyweight.core.events import ignore
from flyweight.core.runtime import Runtime
from flyweight.data.sources.local import data_folder
from flyweight.evaluation.bench_worker import MemoryProbe, answer_one
from flyweight.model.build import build
from flyweight.records.training_cost import TrainingCost
from flyweight.store.artifact import Artifact, Draft, Identity, Store
from flyweight.store.budget import Meter
from flyweight.store.stage import Context, Inputs
from flyweight.store.stage_registry import REGISTERED
from flyweight.training.limits import Limits
from flyweight.training.planned_training import PlannedTraining
from flyweight.training.stages import STAGES
from flyweight.training.stand_ins import (
    RandomTokens,
    Validation,
    new_model,
    new_objective,
    new_teacher,
)
from flyweight.training.step_cost import StepCost
from flyweight.training.trainer import Trainer

ENDLESS = 1e9
"""Seconds between checkpoints: none is due within a few steps."""


def first_steps(artifact: Artifact, steps: int) -> schema.TrainingStage:
    """Return the config that makes the first steps of an artifact's training and nothing else."""
    fields = dict(artifact.identity["config"])
    parents = artifact.identity["parents"]
    fields["train"] = {
        **fields["train"],
        **dict.fromkeys(LIMITS),
        "steps": steps,
        "validations": 0,
        "keep": "last",
        "checkpoint": ENDLESS,
    }
    config_class = STAGE_CONFIGS[artifact.stage]
    references = {name: parents[name] for name in config_class.references if name in parents}
    config = config_class.model_validate(
        {"stage": artifact.stage, **fields, **references}, context={"resolved": True}
    )
    assert isinstance(config, schema.TrainingStage)
    return config


def _exercise(device: torch.device) -> None:
    """Train a tiny model: libraries that load at first use are not the training's memory."""
    sizes: dict[str, Any] = {"vocab_size": 64, "context": 32, "dim": 64}
    model = build(schema.ModelConfig(**sizes, layers=1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.zeros(2, 32, dtype=torch.long, device=device)  # (B, T)
    for _ in range(2):
        model(tokens).float().logsumexp(-1).mean().backward()
        optimizer.step()


def _train_artifact(
    asked: Mapping[str, Any], runtime: Runtime, store: Store, draft: Draft
) -> tuple[int, float]:
    """Make the first steps of the training that made an artifact; return steps and seconds."""
    path = Path(asked["artifact"])
    artifact = Artifact.open(path)
    config = first_steps(artifact, asked["steps"])
    parents = {
        role: Artifact.open(path.parent / name)
        for role, name in artifact.identity["parents"].items()
    }
    corpus, examples = parents.pop("corpus", None), parents.pop("examples", None)
    inputs = Inputs(artifact.id, parents, corpus, examples)
    data_dir = data_folder(asked["data_dir"])
    stage = STAGES[artifact.stage] if artifact.stage in STAGES else REGISTERED[artifact.stage]
    context = Context(store, runtime, Meter(schema.Budget()), ignore, data_dir)
    facts = stage.run(config, inputs, context, draft)
    return facts["steps"], facts["seconds"]


def _train_planned(
    asked: Mapping[str, Any], runtime: Runtime, draft: Draft, memory: MemoryProbe
) -> tuple[int, float]:
    """Make the first steps of a planned training, with a validation; return steps and seconds.

    Its models have random weights, and it reads random tokens.
    """
    planned, device, steps = PlannedTraining.read(asked["planned"]), runtime.device, asked["steps"]
    model, teacher = new_model(planned, runtime.seed).to(device), new_teacher(planned, runtime.seed)
    validate = Validation(model, planned, device)
    few = planned.with_few_pieces()
    trainer = Trainer(
        model=model,
        objective=new_objective(planned, teacher and teacher.to(device)),
        source=RandomTokens(few, runtime.seed),
        validate=validate,
        config=few.train.model_copy(update={"validations": 0}),
        limits=Limits(steps, None),
        cost=StepCost.constant(0),
        runtime=runtime,
        precision=planned.precision,
        draft=draft,
        meter=Meter(schema.Budget()),
        name="check",
    )
    memory.forget()  # packing random weights takes more than reading finished ones
    state = trainer.start()
    began = time.monotonic()
    for _ in range(steps):
        trainer.step(state)
    seconds = time.monotonic() - began
    if planned.train.validations:
        validate(planned.train.validation_tokens, few.train.batch // few.train.accumulate)
    return steps, seconds


def measure(asked: Mapping[str, Any]) -> TrainingCost:
    """Make the first steps of a training in a folder that is removed afterwards.

    `artifact` has a finished training, else `planned` the configs of one. What a planned one takes
    is what a run's budget counts: over the interpreter and its imports, with what libraries load
    when they are first used, and with `held` as a budget of memory is held.
    """
    device = torch.device(asked["device"])
    runtime = Runtime(asked["device"], asked["threads"], asked["seed"])
    runtime.apply()
    if asked.get("held"):
        allocator.give_back_at_once()
    if asked.get("limit"):
        accelerator.hold(asked["device"], asked["limit"])
    if "artifact" in asked:
        _exercise(device)
    memory = MemoryProbe(device)
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))

        def work(draft: Draft) -> dict[str, Any]:
            memory.start()
            if "artifact" in asked:
                steps, seconds = _train_artifact(asked, runtime, store, draft)
            else:
                steps, seconds = _train_planned(asked, runtime, draft, memory)
            memory.look()
            return {"steps": steps, "seconds": seconds}

        made, _ = store.obtain(Identity("memory", 1, {"steps": asked["steps"]}), work)
    return TrainingCost(
        peak_bytes=memory.peak(),
        baseline_bytes=memory.baseline,
        memory=memory.method,
        steps=made.facts["steps"],
        seconds_per_step=made.facts["seconds"] / made.facts["steps"],
        threads=torch.get_num_threads(),
    )


def main() -> int:
    """Answer one request of the stage `memory`, or of a plan's check."""
    return answer_one(lambda asked: measure(asked).model_dump())


if __name__ == "__main__":
    sys.exit(main())
