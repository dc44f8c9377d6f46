"""The peak memory and the seconds of a training, measured in a process that does nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.config.schema import STAGE_CONFIGS, TrainingStage
from flyweight.core.runtime import Runtime
from flyweight.errors import RequestError
from flyweight.evaluation.bench import ask_worker
from flyweight.records.training_cost import TrainingCost
from flyweight.store.artifact import Artifact
from flyweight.training.planned_training import PlannedTraining

TIMEOUT = 900.0
WORKER = "flyweight.training.training_cost_worker"

CHECKED_STEPS = 2
"""The first step makes the optimizer's states, the second one has all there is."""


def measure(
    artifact: Artifact, steps: int, runtime: Runtime, data_dir: Path | None = None
) -> TrainingCost:
    """Return what the first `steps` of the training that made an artifact take.

    `data_dir` is the folder of local copies, which a stream may be read from.

    Raises RequestError where no training made it, or where what it read is no longer beside it.
    Raises FlyweightError where the child failed, was killed, or took longer than 15 minutes.
    """
    if not issubclass(STAGE_CONFIGS.get(artifact.stage, object), TrainingStage):
        raise RequestError(
            f"memory of {artifact.id}: a stage of kind {artifact.stage} made it, which trains "
            f"nothing; name a model that a training has made"
        )
    for role, name in artifact.identity["parents"].items():
        if not (artifact.path.parent / name).is_dir():
            raise RequestError(
                f"memory of {artifact.id}: its {role} {name} is not in {artifact.path.parent}; "
                f"measure it where it was trained"
            )
    asked = {
        "artifact": str(artifact.path.absolute()),
        "seed": artifact.identity["seed"],
        "data_dir": None if data_dir is None else str(data_dir.absolute()),
    }
    return _ask(asked, steps, runtime, artifact.id)


def check(
    planned: PlannedTraining,
    name: str,
    runtime: Runtime,
    held: bool,
    limit: int | None = None,
    steps: int = CHECKED_STEPS,
) -> TrainingCost:
    """Return what a few steps and a validation of a planned training take in a fresh process.

    Its models have random weights, and it reads random tokens. `held`: freed memory goes back at
    once, as with a budget of memory. A GPU gives no more than `limit` bytes.
    Raises FlyweightError as `measure` does.
    """
    asked = {"planned": planned.model_dump(mode="json"), "seed": runtime.seed}
    return _ask({**asked, "held": held, "limit": limit}, steps, runtime, name)


def _ask(asked: dict[str, Any], steps: int, runtime: Runtime, what: str) -> TrainingCost:
    machine = {"steps": steps, "device": runtime.device, "threads": runtime.threads}
    advice = "ask for fewer steps or a smaller batch"
    answer = ask_worker(WORKER, {**asked, **machine}, f"memory of {what}", advice, TIMEOUT)
    return TrainingCost(**answer)
