"""In which float type products are computed: the one asked for, and the one of here and now."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flyweight.core.runtime import Precision, native_bf16

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_NOTHING = nullcontext()


def autocast(device: str | torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which matrix products run in `precision`."""
    return torch.autocast(torch.device(device).type, DTYPES[precision], enabled=precision != "fp32")


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
