"""The process that measures a training: a request in, an answer out, both JSON."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flyweight.config import schema
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import STAGE_CONFIGS
from flyweight.core.events import ignore
from flyweight.core.runtime import Runtime
from flyweight.evaluation.bench_worker import MemoryProbe, answer_one
from flyweight.model.build import build
from flyweight.records.training_cost import TrainingCost
from flyweight.store.artifact import Artifact, Draft, Identity, Store
from flyweight.store.budget import Meter
from flyweight.store.stage import Context, Inputs
from flyweight.store.stage_registry import REGISTERED
from flyweight.training.stages import STAGES

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


def measure(asked: Mapping[str, Any]) -> TrainingCost:
    """Make the first steps of an artifact's training in a folder that is removed afterwards."""
    path, device = Path(asked["artifact"]), torch.device(asked["device"])
    runtime = Runtime(asked["device"], asked["threads"], asked["seed"])
    runtime.apply()
    _exercise(device)
    artifact = Artifact.open(path)
    config = first_steps(artifact, asked["steps"])
    parents = {
        role: Artifact.open(path.parent / name)
        for role, name in artifact.identity["parents"].items()
    }
    corpus, examples = parents.pop("corpus", None), parents.pop("examples", None)
    inputs = Inputs(artifact.id, parents, corpus, examples)
    stage = STAGES[artifact.stage] if artifact.stage in STAGES else REGISTERED[artifact.stage]
    memory = MemoryProbe(device)
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        context = Context(store, runtime, Meter(schema.Budget()), ignore)

        def work(draft: Draft) -> dict[str, Any]:
            memory.start()
            facts = stage.run(config, inputs, context, draft)
            memory.look()
            return facts

        made, _ = store.obtain(Identity("memory", 1, artifact.identity["config"]), work)
    return TrainingCost(
        peak_bytes=memory.peak(),
        baseline_bytes=memory.baseline,
        memory=memory.method,
        steps=made.facts["steps"],
        seconds_per_step=made.facts["seconds"] / made.facts["steps"],
        threads=torch.get_num_threads(),
    )


def main() -> int:
    """Answer one request of the stage `memory`."""
    return answer_one(lambda asked: measure(asked).model_dump())


if __name__ == "__main__":
    sys.exit(main())
