"""Find and check the files with a folder's weights, as transformers chooses them."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.errors import FlyweightError, RequestError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"

PICKLES, OTHERS = (".bin", ".pt", ".pth", ".ckpt", ".pkl"), (".h5", ".msgpack", ".gguf", ".onnx")
BESIDES = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Pickles that trainers leave beside the weights."""

_FLOATS = ("F32", "F16", "BF16", "F64")
_PACKED = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "weight_packed": "compressed-tensors",
    "SCB": "bitsandbytes",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "_blocks": "MXFP4",
    "weight_scale_inv": "FP8",
    "weight_scale": "FP8, INT8 or bitnet",
    "input_scale": "FP8",
}
"""Name endings of tensors that only a format of quantized weights has."""

_BUFFERS = (
    "attn.bias",
    "attention.bias",
    "masked_bias",
    "causal_mask",
    "position_ids",
    "token_type_ids",
    "rotary_emb.inv_freq",
)
"""Name endings of constants in old checkpoints, many of them whole numbers."""


@dataclass(frozen=True)
class Header:
    """A tensor that was not read: its name, its file, safetensors' name of its type, its shape."""

    name: str
    file: str
    kind: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether its numbers are of a float type that models compute with."""
        return self.kind in _FLOATS


def files(path: Path) -> tuple[tuple[str, ...], Mapping[str, str] | None]:
    """Return the names of the files with a folder's weights, and an index's file of each tensor.

    One whole file comes before an index, as in transformers. Raises RequestError that names what
    the folder has instead.
    """
    if (path / ADAPTER).is_file():
        raise RequestError(adapter(path))
    if (path / WEIGHTS).is_file():
        return (WEIGHTS,), None
    places = _index(path)
    if places is None:
        raise RequestError(_instead(path))
    for name in places.values():
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise RequestError(
                f"{path / INDEX}: {name!r:.80} is not the name of a file beside it; copy the model "
                "again"
            )
        if not name.endswith(".safetensors"):
            raise RequestError(
                f"{path / INDEX}: {name!r:.80} is not a safetensors file, and nothing else is read "
                "here"
            )
        if not (path / name).is_file():
            raise FlyweightError(
                f"{path / name} is missing, {INDEX} names it; copy the model again"
            )
    return tuple(sorted(set(places.values()))), places


def unread(path: Path, read: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the other files in a folder that hold weights as well."""
    kinds = (".safetensors", ".gguf", ".h5", ".msgpack")
    names = {file.name for file in path.iterdir() if file.suffix in kinds}
    names |= {file.name for file in pickled(path)}
    return tuple(sorted(names - set(read)))


def adapter(path: Path) -> str:
    """Return a message: what a folder with an adapter of peft's is, and what to do with it."""
    base = _base(path)
    if (path / CONFIG).is_file():
        return (
            f"{path}: an adapter of peft's ({ADAPTER}) lies beside the model, and transformers "
            "would apply it; flyweight does not. Merge it with peft (merge_and_unload) and save "
            "the result, or move the adapter out of the folder"
        )
    return (
        f"{path}: an adapter of peft's ({ADAPTER}), not a whole model; its base is {base}. Import "
        f"it with its base (flyweight import {path} --onto MODEL), or merge the two with peft: "
        f"AutoPeftModelForCausalLM.from_pretrained({str(path)!r}).merge_and_unload()"
        ".save_pretrained('merged')"
    )


def refuse_packed(path: Path, names: tuple[str, ...]) -> None:
    """Raise RequestError where a weight is not of a float type that models compute with."""
    packed = []
    for header in headers(path, names):
        name, kind = header.name, header.kind
        format = next((format for end, format in _PACKED.items() if name.endswith(end)), None)
        if format is not None:
            packed.append(f"{name} ({kind}, as in {format})")
        elif kind not in _FLOATS and kind != "BOOL" and not name.endswith(_BUFFERS):
            packed.append(f"{name} ({kind})")
    if packed:
        more = f" and {len(packed) - 5} more" if len(packed) > 5 else ""
        raise RequestError(
            f"{path}: its weights are quantized: {', '.join(packed[:5])}{more}. flyweight reads "
            "float32, float16 and bfloat16; take the model it was made from, and quantize it here "
            "(flyweight quantize)"
        )


def float_type(path: Path, names: tuple[str, ...]) -> str:
    """Return torch's name of the float type, up to float32, that holds every weight."""
    kinds = {
        header.kind
        for header in headers(path, names)
        if header.is_float and not header.name.endswith(_BUFFERS)
    }
    if kinds == {"BF16"}:
        return "bfloat16"
    return "float16" if kinds == {"F16"} else "float32"


def elements(path: Path, names: tuple[str, ...]) -> tuple[int, int]:
    """Return how many numbers are in these files, and in how many tensors."""
    shapes = [header.shape for header in headers(path, names)]
    return sum(math.prod(shape) for shape in shapes), len(shapes)


def headers(path: Path, names: tuple[str, ...]) -> Iterator[Header]:
    """Yield every tensor in these files; no weight is read.

    Raises FlyweightError for a damaged file.
    """
    for name in names:
        with opened(path / name) as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            found = [
                Header(key, name, str(part.get_dtype()), tuple(part.get_shape()))
                for key, part in slices.items()
            ]
        yield from found


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """Yield an open safetensors file.

    Raises FlyweightError for a damaged one, and where one turns out to be damaged inside.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (OSError, SafetensorError) as error:
        raise FlyweightError(f"{file}: damaged or truncated ({error}); copy it again") from error


def read_rows(path: Path, header: Header, start: int = 0, stop: int | None = None) -> Tensor:
    """Return a tensor of a folder's file, or its rows `start` to `stop` alone.

    No more of the file stays mapped than the tensor. Raises FlyweightError for a damaged file.
    """
    with opened(path / header.file) as shard:
        if start == 0 and stop is None:
            return shard.get_tensor(header.name)
        return shard.get_slice(header.name)[start:stop]


def check_index(file: Path, names: Iterable[str], places: Mapping[str, str] | None) -> None:
    """Raise FlyweightError where the tensors of a file are not those that an index places there."""
    if places is None:
        return
    if set(names) != {key for key, place in places.items() if place == file.name}:
        raise FlyweightError(
            f"{file}: its tensors are not those that {INDEX} names; copy both again"
        )


def pickled(path: Path) -> list[Path]:
    """Return the files of a folder that hold weights as torch pickles them."""
    pickles = sorted(
        file
        for file in path.iterdir()
        if file.suffix in PICKLES and not file.name.startswith(BESIDES)
    )
    return [file for file in pickles if file.name.startswith("pytorch_model")] or pickles


def _instead(path: Path) -> str:
    """Return a message on a folder that has neither `model.safetensors` nor an index."""
    for name in (WEIGHTS, INDEX):
        if os.path.lexists(path / name):
            return (
                f"{path / name} is not a file (a folder, a pipe or a link that leads nowhere); "
                "copy the model again"
            )
    if pickles := pickled(path):
        return (
            f"{path}: its weights are {', '.join(file.name for file in pickles)}, and loading such "
            "a file can run any code in it; flyweight reads safetensors only. Convert it once, "
            "which runs no code of it: python -m flyweight.checkpoints.unpickle "
            f"{shlex.quote(str(path))}"
        )
    if others := sorted(file.name for file in path.iterdir() if file.suffix in OTHERS):
        return (
            f"{path}: its weights are {', '.join(others)}, of a library other than torch; "
            "flyweight reads safetensors only, in which most models can be had as well"
        )
    if names := unread(path, ()):
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return (
            f"{path}: it has neither {WEIGHTS} nor {INDEX}, but {', '.join(names[:5])}{more}. "
            "transformers reads such files by a name (variant=...) or not at all; rename the one "
            f"to read to {WEIGHTS}, or copy the index of several"
        )
    return f"{path}: {WEIGHTS} is missing beside {CONFIG}; copy the model again"


def _base(path: Path) -> str:
    try:
        base = json.loads((path / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "not named"
    return f"{base!r:.200}"


def _index(path: Path) -> dict[str, Any] | None:
    """Return the shard of each tensor, or None for a folder without an index."""
    if not (path / INDEX).is_file():
        return None
    try:
        return dict(json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FlyweightError(
            f"{path / INDEX}: damaged ({error!r}); copy the model again"
        ) from error
