"""In which dtype a product is computed here and now."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flyweight.core.runtime import native_bf16

_NOTHING = nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of `x` is computed here and now."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def fast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which this machine best multiplies `x`.

    It is that of `x`, or float32 on a CPU that only emulates it.
    """
    half = x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cpu"
    return torch.float32 if half and not (x.dtype == torch.bfloat16 and native_bf16()) else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast leaves products of `x` alone.

    Code that has chosen its dtype itself needs it.
    """
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return _NOTHING
