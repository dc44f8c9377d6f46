"""SparseGPT: zero a layer's columns one by one, and let later columns make up for the errors.

Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
One-Shot".
"""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.compression.gptq import corrections
from flyweight.compression.kept import ALREADY, largest, two_of_four
from flyweight.config.sparse_kinds import Pattern

AT_ONCE = 128
"""Columns of which a share is chosen together, and after which the rest is corrected."""


@torch.no_grad()
def prune_by_inputs(
    weight: Tensor,
    gram: Tensor,
    sparsity: float,
    pattern: Pattern | None,
    earlier: Tensor,
    damping: float,
) -> tuple[Tensor, Tensor]:
    """Return a pruned weight (out, in) in float32, and which of its numbers are kept.

    `gram` (in, in) is the mean of x x^T over the layer's inputs, `damping` is added to its
    diagonal as a share of the diagonal's mean. Numbers that are not among the `earlier` kept ones
    (out, in) become zero first.
    """
    factor = corrections(gram, damping)  # (in, in)
    columns = weight.float().T.contiguous()  # (in, out), so that a column lies together
    before = earlier.T  # (in, out)
    kept = torch.zeros_like(before)
    for start in range(0, len(columns), AT_ONCE):
        stop = min(start + AT_ONCE, len(columns))
        if pattern is None:
            scores = _scores(columns, before, factor, start, stop)
            kept[start:stop] = largest([scores], sparsity)[0]
        errors = torch.empty_like(columns[start:stop])  # (n, out)
        for at in range(start, stop):
            if pattern is not None and at % 4 == 0:
                scores = _scores(columns, before, factor, at, at + 4)
                kept[at : at + 4] = two_of_four(scores.T).T
            error = columns[at].masked_fill(kept[at], 0) / factor[at, at]  # (out,)
            errors[at - start] = error
            later = slice(at + 1, stop)
            columns[later] -= factor[at, later, None] * error
        columns[stop:] -= factor[start:stop, stop:].T @ errors
    return columns.masked_fill(~kept, 0).T.contiguous(), kept.T.contiguous()


def _scores(columns: Tensor, before: Tensor, factor: Tensor, start: int, stop: int) -> Tensor:
    """Return how much worse the output gets without each number of some columns: (n, out)."""
    diagonal = factor.diagonal()[start:stop, None]  # (n, 1)
    scores = (columns[start:stop] / diagonal).square()
    return scores.masked_fill(~before[start:stop], ALREADY)
