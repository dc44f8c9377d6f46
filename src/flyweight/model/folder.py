"""A model as a folder: `config.json` and `model.safetensors`, strict in both directions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flyweight.config.schema import Architecture
from flyweight.core.files import new_file, reason
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.build import Model, build

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save(model: Model, folder: str | Path) -> None:
    """Write a model's config and weights into `folder`, which is made if need be.

    Raises FlyweightError if that fails.

    A tied head has no tensor of its own. Each file is replaced whole: a reader, or a model whose
    tensors still map the old file, never sees half of the new one.
    """
    write(model.config, model.state_dict(), folder)


def write(config: Architecture, tensors: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write a resolved config and the tensors of a model's state into `folder`, as `save` does.

    Raises FlyweightError where a tensor is missing, unexpected or of another shape or dtype than
    the config says.
    """
    folder = Path(folder)
    check(config, tensors, folder)
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / f"{WEIGHTS}.partial") as weights:
            save_file(tensors, weights, metadata={"format": "pt"})
        with new_file(folder / f"{CONFIG}.partial") as described:
            described.write_text(text, encoding="utf-8")
        os.replace(weights, folder / WEIGHTS)
        os.replace(described, folder / CONFIG)
    except (OSError, SafetensorError) as error:
        raise FlyweightError(
            f"{folder}: the model could not be written ({reason(error)}); check free space and "
            f"permissions"
        ) from error


def check(config: Architecture, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise FlyweightError where the tensors are not those of the config's model.

    A tensor is missing, is unexpected, or has another shape or dtype.
    """
    with torch.device("meta"):
        model = build(config)
    if faults := _faults(model, tensors):
        raise FlyweightError(f"{where}: the tensors do not fit the config: {_some(faults)}")


def load_config(folder: str | Path) -> Architecture:
    """Return the config of the model in `folder`.

    Raises RequestError if there is none, FlyweightError if it is damaged.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise RequestError(
            f"{folder}: not a model folder ({CONFIG} is missing); name a folder with {CONFIG} "
            f"and {WEIGHTS}"
        )
    try:
        return (
            TypeAdapter(Architecture)
            .validate_python(json.loads(path.read_text(encoding="utf-8")))
            .resolved()
        )
    except OSError as error:
        raise FlyweightError(f"{path}: cannot be read ({reason(error)})") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'model'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise FlyweightError(
            f"{path}: not a model config of this version ({faults}); save the model again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FlyweightError(
            f"{path}: damaged, not valid JSON ({error}); copy or save the model again"
        ) from error


def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """Return the model in `folder` on `device`, in the dtype it was saved in.

    Raises RequestError if `folder` holds no model, FlyweightError if a file is damaged or any
    tensor is missing, unexpected or of another shape or dtype than the config says; parameters may
    be of any one float dtype.
    """
    config = load_config(folder)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise RequestError(
            f"{folder}: {WEIGHTS} is missing beside {CONFIG}; copy or save the model again"
        )
    try:
        tensors = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise FlyweightError(
            f"{path}: damaged or truncated ({error}); copy or save the model again"
        ) from error
    with torch.device("meta"):
        model = build(config)
    if faults := _faults(model, tensors):
        raise FlyweightError(
            f"{path}: does not fit {CONFIG}: {_some(faults)}; save the model again"
        )
    tensors = _aligned(tensors)
    model.load_state_dict(tensors, assign=True)
    return model.to(
        model.dtype
    )  # packed layers keep no tensor that tells them which float to unpack into


def _aligned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors whose int8 codes lie where kernels read aligned vectors.

    A tensor lies in a mapped file where its header ends. Where one has to be copied, all are: a
    file of which any tensor is left stays mapped, with the pages of those that were copied.
    """
    codes = (tensor for tensor in tensors.values() if tensor.dtype is torch.int8)
    if all(tensor.data_ptr() % 64 == 0 for tensor in codes):
        return tensors
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _some(faults: list[str]) -> str:
    return "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")


def _faults(model: Model, tensors: Mapping[str, Tensor]) -> list[str]:
    expected, floats = model.state_dict(), {name for name, _ in model.named_parameters()}
    faults = [f"{name} is missing" for name in sorted(expected.keys() - tensors.keys())]
    faults += [f"{name} is unexpected" for name in sorted(tensors.keys() - expected.keys())]
    both = sorted(expected.keys() & tensors.keys())
    for name in both:
        want, have = expected[name], tensors[name]
        if want.shape != have.shape:
            faults.append(f"{name} has shape {tuple(have.shape)} instead of {tuple(want.shape)}")
        elif not (have.is_floating_point() if name in floats else want.dtype == have.dtype):
            faults.append(f"{name} has dtype {have.dtype} instead of {want.dtype}")
    dtypes = {str(tensors[name].dtype) for name in both if name in floats}
    return (
        faults
        if len(dtypes) < 2
        else [*faults, f"parameters of several dtypes ({', '.join(sorted(dtypes))})"]
    )
