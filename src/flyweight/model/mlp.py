"""The position-wise networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config import schema
from flyweight.model import linear
from flyweight.model.adapters import JointLora, Read, multiply


class Mlp(nn.Module, ABC):
    """Up, activation, down; with a `gate` where the config has one.

    A subclass says what happens in between.
    """

    gate: linear.LinearLayer | linear.LowRank | None

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__()
        options, dim = config.mlp, config.dim
        hidden, rest = options.width(dim), (options.bias, options.rank)
        self.gate_up: JointLora | None = None
        self.gate = None
        if options.kind in schema.GATED:
            self.gate = linear.build_low_rank(config, f"{name}.gate", dim, hidden, *rest)
        self.up = linear.build_low_rank(config, f"{name}.up", dim, hidden, *rest)
        self.down = linear.build_low_rank(config, f"{name}.down", hidden, dim, *rest)

    def forward(self, x: Tensor, use: int = 0) -> Tensor:
        """(B, T, dim) -> (B, T, dim).

        `use` counts the visits of the layer, for its adapters.
        """
        read = Read(use, None if self.gate_up is None else self.gate_up.lora.reduced(x, use))
        gate = x if self.gate is None else _product(self.gate, x, read)
        return _product(self.down, self.activated(_product(self.up, x, read), gate), read)

    @abstractmethod
    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return what `down` reads: (B, T, hidden), as both arguments; some have no gate."""


def _product(layer: linear.LinearLayer | linear.LowRank, x: Tensor, read: Read) -> Tensor:
    if isinstance(layer, linear.LowRank):
        return layer(x, read)
    return multiply(layer, x, read)


class GeluMlp(Mlp):
    """down(gelu(up(x))), exact or with the tanh approximation."""

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__(config, name)
        assert isinstance(config.mlp, schema.Gelu)
        self.approximate = config.mlp.approximate

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return gelu(up)."""
        return F.gelu(up, approximate=self.approximate)


class ReluMlp(Mlp):
    """down(relu(up(x)))."""

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return relu(up)."""
        return F.relu(up)


class Relu2Mlp(Mlp):
    """down(relu(up(x))^2)."""

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return relu(up)^2."""
        return F.relu(up).square()


class SwiGLUMlp(Mlp):
    """down(silu(gate(x)) * up(x))."""

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        return F.silu(gate) * up


class GeGLUMlp(Mlp):
    """down(gelu(gate(x)) * up(x)), exact or with the tanh approximation."""

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__(config, name)
        assert isinstance(config.mlp, schema.GeGLU)
        self.approximate = config.mlp.approximate

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return gelu(gate) * up."""
        return F.gelu(gate, approximate=self.approximate) * up


class DoubleReluMlp(Mlp):
    """down(relu(gate(x)) * relu(up(x)))."""

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return relu(gate) * relu(up)."""
        return F.relu(gate) * F.relu(up)


class DoubleSiluMlp(Mlp):
    """down(silu(gate(x)) * silu(up(x)))."""

    def activated(self, up: Tensor, gate: Tensor) -> Tensor:
        """Return silu(gate) * silu(up)."""
        return F.silu(gate) * F.silu(up)


def build(config: schema.ModelConfig, name: str) -> Mlp:
    """Return the uninitialised network that the config names."""
    return KINDS[config.mlp.kind](config, name)


KINDS: dict[str, Any] = {
    "gelu": GeluMlp,
    "relu": ReluMlp,
    "relu2": Relu2Mlp,
    "swiglu": SwiGLUMlp,
    "geglu": GeGLUMlp,
    "double_relu": DoubleReluMlp,
    "double_silu": DoubleSiluMlp,
}
