"""Linear layers that multiply int8 weights with int8 inputs, each input with a scale of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.linear_kinds import Int8Dynamic
from flyweight.model.kernels import Format, Stored
from flyweight.model.linear_quant import Int8Linear
from flyweight.model.packed import DeviceKernel, Kernel

EXACT = 1024
"""Columns whose products of int8 numbers sum to less than 2^24, so that float32 holds the sum."""

FEWEST_ROWS = 24
"""Rows that CUDA's product is given at least; it wants more than 16, in multiples of 8."""


def _refusal(_: torch.dtype) -> str | None:
    return (
        None if hasattr(torch.ops.aten, "_int_mm") else "this torch has no product of int8 matrices"
    )


def _int_mm(x: Tensor, layer: Int8DynamicLinear) -> Tensor:
    return layer.multiplied(x, lambda codes: torch.ops.aten._int_mm(codes, layer.codes.t()))


def _cuda_int_mm(x: Tensor, layer: Int8DynamicLinear) -> Tensor:
    def sums(codes: Tensor) -> Tensor:
        rows = max(FEWEST_ROWS, -(-len(codes) // 8) * 8)
        padded = F.pad(codes, (0, 0, 0, rows - len(codes)))
        return torch.ops.aten._int_mm(padded, layer.codes.t())[: len(codes)]

    return layer.multiplied(x, sums)


_REASON = "sums of integers by one operator, the same to the bit as the reference"
_FAST = {
    "cpu": DeviceKernel(Kernel("torch._int_mm", _REASON, _int_mm), _refusal),
    "cuda": DeviceKernel(Kernel("torch._int_mm", _REASON, _cuda_int_mm), _refusal),
}


class Int8DynamicLinear(Int8Linear):
    """Int8 weights, and inputs that are rounded to int8 as they come: W8A8.

    An input vector has one scale, from its own largest value. So a token's result is the same to
    the bit whatever stands beside it: sums of integers have no order. Gradients to the input are
    those of the unrounded product.
    """

    default_kind = Int8Dynamic()
    fast = _FAST

    def stored(self) -> Stored | None:
        """Return the codes and scales; the compiled product rounds its inputs the same way."""
        return Stored(Format.ROWS_INT8_DYNAMIC, self.codes, self.in_features, self.scales)

    def reference(self, x: Tensor) -> Tensor:
        """Return x W^T with sums of integers that floats hold exactly: (N, in) -> (N, out)."""
        return self.multiplied(x, self._sums)

    def multiplied(self, x: Tensor, sums: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x W^T; `sums` multiplies int8 codes (N, in) with the weight's: (N, out) int32."""
        x = x.float()
        scales = x.abs().amax(1, keepdim=True) / 127  # (N, 1)
        codes = (x / torch.where(scales > 0, scales, 1)).round_().clamp_(-127, 127).to(torch.int8)
        return sums(codes).float().mul_(scales).mul_(self.scales.float())

    def _sums(self, codes: Tensor) -> Tensor:
        result = torch.empty(
            len(codes), self.out_features, dtype=torch.int32, device=codes.device
        )  # (N, out)
        for start, stop in self._row_blocks(self._step(codes)):
            weight = self._sliced(self.codes, start, stop)
            part = result[:, start:stop].zero_()
            for first in range(0, self.in_features, EXACT):
                columns = slice(first, first + EXACT)
                part += F.linear(codes[:, columns].float(), weight[:, columns].float()).int()
        return result

    def kernel_mismatch(self) -> str | None:
        """Return why torch's product cannot take this layer."""
        if self.in_features == 1:
            return "torch's product of int8 matrices is wrong for a single column (torch 2.13, CPU)"
        if self.codes.is_cuda and (self.in_features % 8 or self.out_features % 8):
            return (
                f"CUDA's product wants sizes in multiples of 8, not {self.in_features} -> "
                f"{self.out_features}"
            )
        return None
