"""One transformer layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig
from flyweight.model import mlp, norm
from flyweight.model.attention import Attention, Reach
from flyweight.model.cache import Memory
from flyweight.model.position import Rotation
from flyweight.model.precision import autocast_dtype


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-norm."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__()
        self.attention_norm = norm.build(config.norm, config.dim)
        self.attention = Attention(config, f"{name}.attention")
        self.mlp_norm = norm.build(config.norm, config.dim)
        self.mlp = mlp.build(config, f"{name}.mlp")
        self.dropout = config.dropout.residual

    def forward(self, x: Tensor, reach: Reach, rotation: Rotation | None = None, slot: Memory | None = None) -> Tensor:
        """Return the residual stream after this layer: (B, T, dim) -> (B, T, dim)."""
        x = x + self._dropped(self.attention(_narrow(self.attention_norm(x)), reach, rotation, slot))
        return x + self._dropped(self.mlp(_narrow(self.mlp_norm(x))))

    def _dropped(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


def _narrow(x: Tensor) -> Tensor:
    """Under autocast, cast once what several layers read: autocast itself would cast it for each of them."""
    return x.to(autocast_dtype(x))
