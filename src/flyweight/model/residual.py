"""How a branch joins the residual stream."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.config import schema


class AddResidual(nn.Module):
    """x + F(x)."""

    def __init__(self, config: schema.Add) -> None:
        super().__init__()

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return the sum, (B, T, dim)."""
        return x + branch


class AlphaResidual(nn.Module):
    """a * x + (1 - a) * F(x) with a = sigmoid(weight)."""

    def __init__(self, config: schema.Alpha) -> None:
        super().__init__()
        self.start = logit(config.start)
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return the mean of both, (B, T, dim)."""
        return torch.lerp(branch.to(x.dtype), x, self.weight.sigmoid().to(x.dtype))


class ValueResidual(nn.Module):
    """a * values + b * those of the first use of a layer, with two learned scalars.

    Zhou et al. 2024, *Value Residual Learning*, section 3.
    """

    start = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2))

    def forward(self, values: Tensor, first: Tensor) -> Tensor:
        """Return mixed values, (B, H_kv, T, D) as both."""
        own, others = self.weight.to(values.dtype)
        return own * values + others * first


def logit(share: float) -> float:
    """Return the number whose sigmoid is `share`."""
    return math.log(share / (1 - share))


def build(config: schema.Residual) -> AddResidual | AlphaResidual:
    """Return the uninitialised connection that the config names."""
    return KINDS[config.kind](config)


KINDS: dict[str, Any] = {"add": AddResidual, "alpha": AlphaResidual}
