"""What a training is asked to do and cannot: refused before its first step."""

from __future__ import annotations

from flyweight.config import schema
from flyweight.config.training import FP16_SCALER
from flyweight.core.runtime import Precision
from flyweight.errors import RequestError
from flyweight.training.limits import Limits
from flyweight.training.step_cost import StepCost


def check_training(
    config: schema.Train,
    limits: Limits,
    cost: StepCost,
    precision: Precision,
    processes: int,
    where: str,
) -> None:
    """Raise RequestError where processes cannot share a step evenly, or end at a time.

    A step in the backward pass is not shared at all. A snapshot before the layers are looped would
    be of another model.
    """
    if processes > 1 and limits.seconds is not None:
        raise RequestError(
            f"{where}.train: {processes} processes cannot end at a time, because their clocks "
            f"differ; give steps, tokens or flops instead of time"
        )
    backward = config.memory.step == "backward"
    if backward and processes > 1:
        raise RequestError(
            f"{where}.train.memory.step: backward drops each gradient before {processes} processes "
            f"could add theirs; set it to after"
        )
    if backward and precision == "fp16":
        raise RequestError(f"{where}.train.memory.step: backward: {FP16_SCALER}")
    check_pieces(config, config.accumulate, processes, where)
    if unlike := [at for at in config.snapshots if not cost.is_looped(at)]:
        raise RequestError(
            f"{where}.train.snapshots: at {unlike[0]:g} the layers are not looped yet, so it would "
            f"be another model; choose {cost.switch_at:g} or later"
        )


def check_pieces(config: schema.Train, accumulate: int, processes: int, where: str) -> None:
    """Raise RequestError where a batch cannot be cut into equal pieces for each process."""
    if config.batch % (accumulate * processes):
        raise RequestError(
            f"{where}.train: batch {config.batch} cannot be cut into {accumulate} equal pieces for "
            f"each of {processes} processes"
        )
