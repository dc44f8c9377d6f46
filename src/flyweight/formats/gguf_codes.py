"""A model's tensors for a GGUF file: floats, and int8 and int4 matrices with their own codes.

GGUF holds the same codes and scales in blocks of 32 columns.

Q8_0 is an integer from -127 to 127 times a float16, Q4_0 one from -8 to 7. An int8 row's scale is
repeated in each of its blocks. Source: `block_q8_0` and `block_q4_0` of llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyweight.config.linear_kinds import Int4, Int8, LinearKind
from flyweight.errors import RequestError
from flyweight.model.build import Model
from flyweight.model.dense_state import dense_state
from flyweight.model.linear_grouped import Int4Linear
from flyweight.model.linear_layer import LinearLayer, layers_of
from flyweight.model.linear_quant import Int8Linear

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

BLOCK = 32


def type_of(kind: LinearKind) -> str:
    """Return the type of GGUF that holds a kind of matrix exactly; empty where none does."""
    if type(kind) is Int8:
        return "Q8_0"
    return "Q4_0" if type(kind) is Int4 and kind.group == BLOCK else ""


def refusal(layer: LinearLayer) -> str:
    """Return why this matrix does not fit its type; empty where it does."""
    assert isinstance(layer, Int8Linear | Int4Linear)
    if layer.in_features % BLOCK:
        return f"GGUF's blocks of {BLOCK} do not divide its rows of {layer.in_features}"
    scales = layer.scales.float()
    strange = scales[scales.half().float() != scales]
    if strange.numel():
        return f"GGUF's scales are float16, which cannot hold {strange[0].item():g}"
    return ""


def blocks(layer: LinearLayer) -> np.ndarray:
    """Return a matrix as the file has it: bytes (out, blocks * bytes of one)."""
    import numpy as np

    if isinstance(layer, Int8Linear):
        codes = layer.codes.view(layer.out_features, -1, BLOCK).numpy()
        scales = layer.scales[:, None].expand(-1, codes.shape[1])
    else:
        assert isinstance(layer, Int4Linear)
        codes, scales = _pairs(layer.codes).numpy(), layer.scales
    steps = scales.float().half().contiguous().numpy()[..., None]  # (out, blocks, 1)
    whole = np.concatenate((steps.view(np.uint8), codes.view(np.uint8)), -1)
    return whole.reshape(len(whole), -1)


def _pairs(codes: Tensor) -> Tensor:
    """Return packed codes (out, in / 2) with a block's first half in the low bits: (out, n, 16)."""
    import torch

    each = torch.stack((codes >> 4, codes & 15), -1).view(len(codes), -1, 2, BLOCK // 2)
    return each[:, :, 0] | each[:, :, 1] << 4


class Source:
    """A model's tensors by name: `state` are floats, `packed` matrices whose codes are written."""

    def __init__(self, model: Model) -> None:
        self.state = dense_state(model)
        self.packed: dict[str, LinearLayer] = {
            f"{name}.weight": layer for name, layer in layers_of(model) if type_of(layer.kind)
        }

    def type_of(self, ours: tuple[str, ...]) -> str:
        """Return the type of the codes that a tensor is made of; empty for floats.

        Raises RequestError where they do not fit it.
        """
        kinds = {type_of(self.packed[n].kind) if n in self.packed else "" for n in ours}
        if len(kinds) > 1:
            raise RequestError(f"{', '.join(ours)}: GGUF has one matrix for them, in one type")
        for name in ours:
            if name in self.packed and (reason := refusal(self.packed[name])):
                raise RequestError(
                    f"{name}: {reason}; export the dense model that it was made from"
                )
        return kinds.pop()

    def shape(self, ours: tuple[str, ...]) -> tuple[int, ...]:
        """Return the shape of tensors one below the other."""
        shapes = [self._shape(name) for name in ours]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def value(self, ours: tuple[str, ...], heads: int) -> np.ndarray:
        """Return a tensor of the file, float32 or bytes; outputs come first, also in GPT-2's.

        The rows of `heads` heads are interleaved.
        """
        import numpy as np

        value = np.concatenate([self._part(name) for name in ours])
        if heads:
            pairs = value.reshape(heads, 2, -1, *value.shape[1:])
            value = pairs.swapaxes(1, 2).reshape(value.shape)
        return np.ascontiguousarray(value)

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self.packed:
            return (self.packed[name].out_features, self.packed[name].in_features)
        return self._floats(name).shape

    def _part(self, name: str) -> np.ndarray:
        if name in self.packed:
            return blocks(self.packed[name])
        return self._floats(name).detach().float().numpy()

    def _floats(self, name: str) -> Tensor:
        """Return a tensor of ours, or the zeros of a bias that this layer does without."""
        import torch

        if name in self.state or not name.endswith(".bias"):
            return self.state[name]
        return torch.zeros(self._shape(name.removesuffix("bias") + "weight")[0])
