"""The resume point: weights, optimizer state, counters. A kill at any instant leaves a whole one.

    state/step-00000400/  model.safetensors  optimizer.safetensors
                          (step-00000400-again where that step was saved before)
    state/current.json    which folder is the newest whole one, its checksums, which artifact it
                          belongs to, the counters, and a digest of all that; replaced by one rename

No random state is stored: dropout is seeded by step and row, and data order is a function of the
step, or in a stream of a place in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes, load_file, save_file
from torch import Tensor, nn

from flyweight.core.files import (
    disk_errors,
    new_file,
    own_folder,
    read_bytes,
    read_sealed,
    reason,
    refuse_link,
    remove_inside,
    sha256,
    sync_file,
    sync_folder,
    write_sealed,
)
from flyweight.core.memory_errors import ran_out
from flyweight.errors import FlyweightError


@dataclass
class Snapshot:
    """Weights that are kept at a fraction of a training: the step, and the validation there."""

    at: float
    step: NonNegativeInt
    nll: float | None
    sha256: str


@dataclass
class Progress:
    """The counters of a training run: everything that is not a tensor.

    `validated` is the last step that was validated as the model that is kept, with its loop on.
    `validation_tokens` and `validations_planned` are those of a training by the clock, which plans
    them when it begins. `accumulate` is in how many pieces each process computes a step now, and
    `memory_used` the most bytes that were held. `stream` is where the next step begins in a text
    that is read on the way.
    """

    step: NonNegativeInt = 0
    tokens: NonNegativeInt = 0
    flops: NonNegativeInt = 0
    seconds: NonNegativeFloat = 0.0
    validations: NonNegativeInt = 0
    validated: NonNegativeInt | None = None
    best_step: NonNegativeInt | None = None
    best_nll: float | None = None
    validation_tokens: NonNegativeInt | None = None
    validations_planned: NonNegativeInt | None = None
    events: NonNegativeInt = 0
    events_sha256: str = ""
    scaler: dict[str, int | float] = field(default_factory=dict)
    accumulate: NonNegativeInt = 1
    memory_used: NonNegativeInt = 0
    snapshots: list[Snapshot] = field(default_factory=list[Snapshot])
    stream: dict[str, Any] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


class _Current(BaseModel):
    """What `current.json` holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    artifact: str
    progress: Progress
    files: dict[str, str]
    digest: str


MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
AGAIN = "-again"
SNAPSHOTS = "snapshots"


def _new_folder(state: Path, step: int, current_files: Mapping[str, str]) -> Path:
    """Return the folder for a checkpoint of this step; the current pointer does not name it."""
    folder = state / f"step-{step:08d}"
    if _owner(current_files, step) == folder.name:
        return folder.with_name(f"{folder.name}{AGAIN}")
    return folder


def _owner(files: Mapping[str, str], step: int | None, name: str = MODEL) -> str | None:
    """Return which folder among a checkpoint's files holds `name` for a step.

    None where none does.
    """
    if step is None:
        return None
    for file in files:
        folder = file.removesuffix(f"/{name}")
        if folder != file and folder.removesuffix(AGAIN) == f"step-{step:08d}":
            return folder
    return None


def _current_files(state: Path) -> dict[str, str]:
    """Return the files that the current pointer names, with their checksums."""
    pointer = state / "current.json"
    return read_sealed(pointer)["files"] if pointer.exists() else {}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes; the others are those that it began with."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{place}.{index}.{name}": value
        for place, optimizer in enumerate(optimizers)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def save(
    state: Path,
    artifact: str,
    progress: Progress,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Write a checkpoint of this step and make it the current one; of older ones, the best stays.

    Of the best one the weights stay alone. `artifact` names the folder that `state` belongs to.
    Until the new one is whole, the one before it is, even where it is of the same step.
    """
    own_folder(state)
    current_files = _current_files(state)
    folder = _new_folder(state, progress.step, current_files)
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, tensors in (
            (MODEL, _trained(model)),
            (OPTIMIZER, _optimizer_tensors(optimizers)),
        ):
            with new_file(folder / name) as file:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
        sums = {f"{folder.name}/{file.name}": sha256(file) for file in sorted(folder.iterdir())}
        for name in sums:
            sync_file(state / name)
        sync_folder(folder)
        best = None
        if progress.best_step != progress.step:
            best = _owner(current_files, progress.best_step)
        if best is not None:
            sums[f"{best}/{MODEL}"] = sha256(state / best / MODEL)
        content = {"artifact": artifact, "progress": asdict(progress), "files": sums}
        write_sealed(state / "current.json", content)
    for other in state.glob("step-*"):
        if other.name not in (folder.name, best):
            shutil.rmtree(other, ignore_errors=True)
    if best is not None:
        with disk_errors(state / best):
            remove_inside(state / best, own_folder(state / best), keep=(MODEL,))


def load(
    state: Path,
    artifact: str,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> Progress | None:
    """Restore the current checkpoint into `model` and `optimizers` and return its counters.

    Returns None where there is no checkpoint. Raises FlyweightError that names the file which is
    damaged, missing or another run's.
    """
    refuse_link(state)
    pointer = state / "current.json"
    if not pointer.exists():
        return None
    advice = f"this run cannot go on from its checkpoint. Delete {state.parent} to start it again"
    try:
        read_sealed(pointer)
        current = _Current.model_validate_json(read_bytes(pointer))
    except FlyweightError as error:
        raise FlyweightError(f"{error}; {advice}") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise FlyweightError(
            f"{pointer} is not a valid checkpoint ({where}: {error.errors()[0]['msg']}); {advice}"
        ) from error
    if current.artifact != artifact:
        raise FlyweightError(
            f"{pointer} is the checkpoint of another artifact, {current.artifact}; {advice}"
        )
    files = dict(current.files)
    for taken in current.progress.snapshots:
        files[str(snapshot_file(state, taken.at).relative_to(state))] = taken.sha256
    for name, expected in files.items():
        file = state / name
        if not file.is_file() or sha256(file) != expected:
            raise FlyweightError(f"{file} is damaged or missing: {advice}")
    progress = current.progress
    folder = state / (
        _owner(current.files, progress.step, OPTIMIZER) or f"step-{progress.step:08d}"
    )
    restore(model, folder / MODEL)
    tensors = _read(folder / OPTIMIZER)
    for place, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        saved["state"] = {}
        for key, value in tensors.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == place:
                saved["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(saved)
    return progress


def restore(model: nn.Module, file: Path) -> None:
    """Copy a checkpoint's weights into `model`; every trained tensor has to match."""
    tensors, ours = _read(file), _trained(model)
    if tensors.keys() != ours.keys():
        raise FlyweightError(
            f"{file} belongs to another model: {sorted(tensors.keys() ^ ours.keys())[:4]} do not "
            f"match"
        )
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(tensors[name])


def snapshot_file(root: Path, at: float) -> Path:
    """Return where a snapshot is, in a training's resume point or in its artifact."""
    return root / SNAPSHOTS / f"{at:g}.safetensors"


def save_weights(file: Path, model: nn.Module) -> str:
    """Write the tensors that training changes to a file, which is on disk then; return its sum."""
    own_folder(file.parent)
    with disk_errors(file):
        with new_file(file):
            save_file({name: part.contiguous() for name, part in _trained(model).items()}, file)
        sync_file(file)
        sync_folder(file.parent)
        return sha256(file)


def copy_weights(file: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copy the tensors of a file into parameters of the same names.

    Raises FlyweightError for a file of another model.
    """
    tensors = _read(file)
    if strange := sorted(tensors.keys() - parameters.keys()):
        raise FlyweightError(f"{file} belongs to another model: {strange[:4]} do not match")
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def best_file(state: Path, progress: Progress) -> Path | None:
    """Return the weights of the best validation so far, or None where nothing was validated."""
    folder = _owner(_current_files(state), progress.best_step)
    return None if folder is None else state / folder / MODEL


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return from_bytes(
            read_bytes(file)
        )  # memory that is free here need not be free for a mapping
    except (OSError, SafetensorError) as error:
        raise FlyweightError(f"{file} cannot be read ({reason(error)}): it is damaged") from error
