"""Convert pickled weights to safetensors: `python -m flyweight.checkpoints.unpickle DIR`.

Nothing else here reads a pickle, and this does only when the user asks. torch's restricted
unpickler (`weights_only`) reads it, which makes tensors and runs no code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyweight.checkpoints.read import WEIGHTS, pickled
from flyweight.core.files import disk_errors, new_file
from flyweight.core.terminal import prepare
from flyweight.errors import FlyweightError, RequestError


def convert(folder: Path) -> Path:
    """Write `model.safetensors` from the pickled weights in a folder and return its path.

    The pickled files stay where they are. Raises RequestError where there is nothing to do,
    FlyweightError where a file holds more than tensors.
    """
    import torch
    from safetensors.torch import save_file

    out, files = folder / WEIGHTS, pickled(folder)
    if out.exists():
        raise RequestError(f"{out} is there already")
    if not files:
        raise RequestError(f"{folder} holds no weights that torch has pickled")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # broken pickles fail in every way
            raise FlyweightError(
                f"{file}: torch does not read it as tensors alone ({str(error).splitlines()[0]})"
            ) from error
        tensors |= _tensors(content, file)
    partial = out.with_name(f".{WEIGHTS}.partial")
    try:
        with disk_errors(out):
            with new_file(partial):
                save_file(
                    {name: tensor.clone().contiguous() for name, tensor in tensors.items()},
                    partial,
                    {"format": "pt"},
                )
            partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _tensors(content: object, file: Path) -> dict[str, Any]:
    import torch

    inner = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(inner, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in inner.values()
    ):
        raise FlyweightError(
            f"{file}: it holds more than tensors by name; save the model's state_dict() and "
            "convert that"
        )
    return {str(name): tensor for name, tensor in inner.items()}


def main() -> None:
    """Convert the folder named on the command line."""
    prepare()
    if len(sys.argv) != 2:
        sys.exit("python -m flyweight.checkpoints.unpickle DIR")
    try:
        print(convert(Path(sys.argv[1])))
    except FlyweightError as error:
        print(f"flyweight: {error}", file=sys.stderr)
        sys.exit(error.status)


if __name__ == "__main__":
    main()
