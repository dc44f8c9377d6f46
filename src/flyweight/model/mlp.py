"""The position-wise networks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config import schema
from flyweight.model import linear


class Mlp(nn.Module):
    """Up, activation, down; with a `gate` where the config has one. A subclass says what happens in between."""

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__()
        options, dim = config.mlp, config.dim
        assert options.hidden is not None
        if isinstance(options, schema.SwiGLU):
            self.gate = linear.named(config, f"{name}.gate", dim, options.hidden, options.bias)
        self.up = linear.named(config, f"{name}.up", dim, options.hidden, options.bias)
        self.down = linear.named(config, f"{name}.down", options.hidden, dim, options.bias)


class Gelu(Mlp):
    """down(gelu(up(x))), exact or with the tanh approximation."""

    def __init__(self, config: schema.ModelConfig, name: str) -> None:
        super().__init__(config, name)
        assert isinstance(config.mlp, schema.Gelu)
        self.approximate = config.mlp.approximate

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


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


def build(config: schema.ModelConfig, name: str) -> Mlp:
    """Return the uninitialised network that the config names."""
    return KINDS[config.mlp.kind](config, name)


KINDS: dict[str, Any] = {"gelu": Gelu, "relu2": Relu2, "swiglu": SwiGLU}
