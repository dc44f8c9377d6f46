"""The peak memory and the seconds of a training, measured in a process that does nothing else."""

from __future__ import annotations

from flyweight.config.schema import STAGE_CONFIGS, TrainingStage
from flyweight.core.runtime import Runtime
from flyweight.errors import RequestError
from flyweight.evaluation.bench import ask_worker
from flyweight.records.training_cost import TrainingCost
from flyweight.store.artifact import Artifact

TIMEOUT = 900.0
WORKER = "flyweight.training.training_cost_worker"


def measure(artifact: Artifact, steps: int, runtime: Runtime) -> TrainingCost:
    """Return what the first `steps` of the training that made an artifact take.

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
        "steps": steps,
        "device": runtime.device,
        "threads": runtime.threads,
        "seed": artifact.identity["seed"],
    }
    answer = ask_worker(WORKER, asked, f"memory of {artifact.id}", "ask for fewer steps", TIMEOUT)
    return TrainingCost(**answer)
