"""In which dtype a product is computed here and now."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flyweight.core.runtime import native_bf16


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of `x` is computed here and now."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def fast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which this machine best multiplies `x`: its own, but float32 on CPUs that only emulate it."""
    if x.device.type != "cpu" or x.dtype == torch.float64 or (x.dtype == torch.bfloat16 and native_bf16()):
        return x.dtype
    return torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast leaves products of `x` alone: for code that has chosen its dtype itself."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
