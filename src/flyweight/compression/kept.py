"""Which numbers are kept, given how important each one is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALREADY = -1.0
"""The score of a number that was pruned before: less than that of any other."""


def largest(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Return where scores are kept that are compared with each other: booleans of their shapes.

    All but the share `sparsity` are kept, to the number. Of equal scores the later ones are.
    """
    flat = torch.cat([score.reshape(-1) for score in scores])
    count = round(sparsity * len(flat))
    kept = torch.ones_like(flat, dtype=torch.bool)
    if count:
        bound = flat.kthvalue(count).values
        kept = flat > bound
        missing = count - int((flat < bound).sum())
        equal = (flat == bound).nonzero()[:, 0]
        kept[equal[missing:]] = True
    parts = kept.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def largest_of_rows(score: Tensor, sparsity: float) -> Tensor:
    """Return where scores (out, in) are kept that are compared with those of their row."""
    count = round(sparsity * score.shape[1])
    smallest = score.argsort(dim=1, stable=True)[:, :count]
    return torch.ones_like(score, dtype=torch.bool).scatter_(1, smallest, False)


def two_of_four(score: Tensor) -> Tensor:
    """Return the larger two of every four scores in a row: booleans (out, in)."""
    fours = score.unflatten(-1, (-1, 4))
    best = fours.topk(2, -1).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, best, True).flatten(-2)
