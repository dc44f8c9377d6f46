"""The matrix that makes logits, as a loss takes it: dense, packed, or a table that embeds too."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flyweight.model.linear_layer import LinearLayer
from flyweight.model.packed import Packed

HeadMatrix = Tensor | Packed
"""A matrix (V, K) in float, or the layer that holds it packed and need not be unpacked."""


def head_matrix(layer: LinearLayer) -> HeadMatrix:
    """Return what a loss multiplies by: the layer itself where it is packed, else its weight."""
    return layer if isinstance(layer, Packed) else layer.dense()


def rows_and_table(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a table (V, K) at `index` (...), and the table, for a head: (..., K).

    The gradients of both are one: those of the rows are added to that of the returned table, which
    is changed in place. It has to be a tensor that nobody else holds. Sums are those of torch's
    embedding, to the bit.
    """
    result = _RowsAndTable.apply(table, index)
    assert isinstance(result, tuple)
    return result


class _RowsAndTable(torch.autograd.Function):
    """Two readers of a table in one node, so that autograd holds one gradient of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        ctx.set_materialize_grads(False)
        ctx.size = table.shape[0]
        return F.embedding(index, table), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, None]:
        grad_rows, grad_table = grads
        (index,) = ctx.saved_tensors
        if grad_rows is None:
            return grad_table, None
        if grad_table is None:
            return _sum_rows(grad_rows, index, ctx.size), None
        index = index.reshape(-1)  # (N,)
        grad_rows = grad_rows.reshape(index.shape[0], -1)  # (N, K)
        numbers, first = _number_equals(index)
        sums = _sum_rows(grad_rows, numbers, index.shape[0])
        # A number that no token has adds its zeros to a row of the table.
        return grad_table.index_add_(0, first, sums), None


def _sum_rows(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the sum of the rows (..., K) of each index (...), in their order: (size, K)."""
    return torch.ops.aten.embedding_dense_backward(rows, index, size, -1, False)


def _number_equals(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return a number for each of `index` (N,), the same for equal values, and their values (N,).

    Where values repeat there are fewer numbers than N; those left over have the value 0. No shape
    depends on the values, so that a device need not be waited for.
    """
    ordered, order = index.sort(stable=True)
    is_new = ordered[1:] != ordered[:-1]  # (N - 1,)
    ranks = F.pad(is_new.long().cumsum(0), (1, 0))  # (N,), from 0
    numbers = torch.empty_like(index).scatter_(0, order, ranks)
    return numbers, torch.zeros_like(index).scatter_(0, ranks, ordered)
