"""The position-wise networks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config import schema
from flyweight.model import linear


class Mlp(nn.Module):
    """Up, activation, down; with a `gate` where the config has one.

    A subclass says what happens in between.
    """

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__()
        options, dim = config.mlp, config.dim
        hidden, rest = options.width(dim), (options.bias, options.rank)
        if options.kind in schema.GATED:
            self.gate = linear.build_low_rank(config, f"{name}.gate", dim, hidden, *rest)
        self.up = linear.build_low_rank(config, f"{name}.up", dim, hidden, *rest)
        self.down = linear.build_low_rank(config, f"{name}.down", hidden, dim, *rest)


class Gelu(Mlp):
    """down(gelu(up(x))), exact or with the tanh approximation."""

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__(config, name)
        assert isinstance(config.mlp, schema.Gelu)
        self.approximate = config.mlp.approximate

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Relu(Mlp):
    """down(relu(up(x)))."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.relu(self.up(x)))


class Relu2(Mlp):
    """down(relu(up(x))^2)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.relu(self.up(x)).square())


class SwiGLU(Mlp):
    """down(silu(gate(x)) * up(x))."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GeGLU(Mlp):
    """down(gelu(gate(x)) * up(x)), exact or with the tanh approximation."""

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__(config, name)
        assert isinstance(config.mlp, schema.GeGLU)
        self.approximate = config.mlp.approximate

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.gelu(self.gate(x), approximate=self.approximate) * self.up(x))


class DoubleRelu(Mlp):
    """down(relu(gate(x)) * relu(up(x)))."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.relu(self.gate(x)) * F.relu(self.up(x)))


class DoubleSilu(Mlp):
    """down(silu(gate(x)) * silu(up(x)))."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.silu(self.gate(x)) * F.silu(self.up(x)))


def build(config: schema.ModelConfig, name: str) -> Mlp:
    """Return the uninitialised network that the config names."""
    return KINDS[config.mlp.kind](config, name)


KINDS: dict[str, Any] = {
    "gelu": Gelu,
    "relu": Relu,
    "relu2": Relu2,
    "swiglu": SwiGLU,
    "geglu": GeGLU,
    "double_relu": DoubleRelu,
    "double_silu": DoubleSilu,
}
