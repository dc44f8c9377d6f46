"""Training curves for wandb, trackio or TensorBoard, from the events of `events.jsonl`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flyweight.core.events import Watcher
from flyweight.errors import RequestError

Log = Callable[[dict[str, float], int], None]


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RequestError(
            f"train.trackers: {name} is not installed; pip install 'flyweight[{extra}]'"
        ) from error


def _tensorboard(name: str, identity: str) -> Log:
    writer = _library("torch.utils.tensorboard", "track").SummaryWriter(
        str(Path("tensorboard") / f"{name}-{identity}")
    )

    def log(values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return log


def _wandb(name: str, identity: str) -> Log:
    run = _library("wandb", "wandb").init(
        project="flyweight", name=name, id=identity, resume="allow"
    )
    return lambda values, step: run.log(values, step=step)


def _trackio(name: str, identity: str) -> Log:
    run = _library("trackio", "trackio").init(project="flyweight", name=f"{name}-{identity}")
    return lambda values, step: run.log({**values, "step": step})


def tracked(names: Sequence[str], name: str, identity: str, watch: Watcher) -> Watcher:
    """Return a watcher that passes events on to `watch` and their numbers to the named trackers."""
    logs = [TRACKERS[tracker](name, identity) for tracker in names]
    if not logs:
        return watch

    def both(kind: str, fields: dict[str, Any]) -> None:
        watch(kind, fields)
        if kind in ("step", "validation"):
            values = {
                f"{kind}/{key}": float(value) for key, value in fields.items() if key != "step"
            }
            for log in logs:
                log(values, fields["step"])

    return both


TRACKERS: dict[str, Callable[[str, str], Log]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
