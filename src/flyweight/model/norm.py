"""Normalisation layers over the last dimension."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flyweight.config import schema


class LayerNormLayer(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016)."""

    def __init__(self, config: schema.LayerNorm, size: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNormLayer(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, config: schema.RMSNorm, size: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, same shape."""
        return rms_norm(x, self.weight, self.eps)


class _RMSNormCPU(torch.autograd.Function):
    """RMSNorm with its own backward, for the CPU.

    torch has no fused kernel there, and its composite backward takes 3 times as long.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor, eps: float
    ) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()  # (..., 1)
        scale = scale.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normal = x * scale  # (..., size)
        product = grad * normal  # (..., size)
        with torch.autocast(
            "cpu", enabled=False
        ):  # a backward inside autocast would round this sum
            along = (product @ weight).div_(x.shape[-1]).unsqueeze(-1)  # (..., 1)
        into = (grad * weight).addcmul_(normal, along, value=-1).mul_(scale)
        return into, product.reshape(-1, x.shape[-1]).sum(0), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
    ):
        return _RMSNormCPU.apply(x, weight, eps)  # pyright: ignore[reportReturnType]
    return F.rms_norm(
        x, weight.shape, weight.to(x.dtype), eps
    )  # mixed dtypes would miss the fused kernel


def build(config: schema.Norm, size: int) -> LayerNormLayer | RMSNormLayer:
    """Return the uninitialised norm that the config names."""
    return KINDS[config.kind](config, size)


KINDS: dict[str, Any] = {"layernorm": LayerNormLayer, "rmsnorm": RMSNormLayer}
