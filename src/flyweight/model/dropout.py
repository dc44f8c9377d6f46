"""Dropout that is drawn by row: a row's mask is the same in whatever micro-batch it is read.

Each call draws one key from torch's global generator, however many rows there are. A row's mask
comes from a generator of its own, seeded by the key and the number of the row in the step's whole
batch. So accumulation, micro-batches and processes change no mask, and a visit that is computed
again with the generator's old state has its old ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flyweight.model.linear_layer import holds_data

LEVELS = 1 << 16
"""Steps that a rate is rounded to: a number is dropped by 16 random bits, four times as fast as by
32 or a float. What is kept is scaled by the rounded rate, so that the mean stays what it was."""

_WORD = 64
_NUMBERS_A_WORD = 4


class Dropout(nn.Module):
    """Sets numbers to zero in training with probability `rate`, and scales the others.

    Srivastava et al. 2014. `first_row` is the number of a batch's first row in the step's whole
    batch; `number_rows` sets it.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.kept = max(1, LEVELS - round(rate * LEVELS))
        self.first_row = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, ...) with numbers dropped in training. One byte of each is kept.

        A product with the mask would make floats of it first, forward and backward.
        """
        if not self.training:
            return x
        return x.masked_fill(self.dropped(x), 0).mul_(LEVELS / self.kept)

    def dropped(self, x: Tensor) -> Tensor:
        """Return which numbers of x (B, ...) are dropped, as bool of its shape."""
        mask = torch.empty(x.shape, dtype=torch.bool, device=x.device)
        if not holds_data(x):  # nothing is computed: the bytes count alone
            return mask
        # Apple's GPUs draw no 64 random bits; the CPU does it for them.
        device = x.device if x.is_cuda else torch.device("cpu")
        generator = torch.Generator(device)
        numbers = math.prod(x.shape[1:])
        words = torch.empty(-(-numbers // _NUMBERS_A_WORD), dtype=torch.int64, device=device)
        drawn = words.view(torch.int16)[:numbers].view(x.shape[1:])
        least = LEVELS // 2 - self.kept
        for row, seed in zip(mask, self.seeds(len(x)), strict=True):
            generator.manual_seed(seed)
            words.random_(-(1 << (_WORD - 1)), None, generator=generator)
            row.copy_(drawn < least)
        return mask

    def seeds(self, rows: int) -> Sequence[int]:
        """Draw a key; return the seeds of so many rows, below 2^63."""
        key = int(torch.randint(1 << 62, (), device="cpu"))
        return [_mixed(key, self.first_row + row) for row in range(rows)]


class StochasticDepth(Dropout):
    """Sets a whole branch to zero for some rows in training, and scales it for the others.

    Huang et al. 2016. The layer's uses have `rates` of their own.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__(max(rates))
        self.rates = tuple(rates)

    def forward(self, x: Tensor, use: int = 0) -> Tensor:
        """Return the branch x (B, ...) of a use of the layer; one number a row is kept."""
        if not self.training:
            return x
        return x * self.factors(x, use).view(-1, *[1] * (x.dim() - 1))

    def factors(self, x: Tensor, use: int) -> Tensor:
        """Return what each row of x (B, ...) is multiplied by, (B,): 0 or 1 / (1 - rate)."""
        rate = self.rates[use]
        if not holds_data(x):  # nothing is computed: the bytes count alone
            return x.new_empty(len(x))
        least = rate * (1 << (_WORD - 1))
        return x.new_tensor([(seed >= least) / (1 - rate) for seed in self.seeds(len(x))])


def stochastic_depth(rates: Sequence[float]) -> StochasticDepth | None:
    """Return a layer's stochastic depth, or None where no branch is dropped."""
    return StochasticDepth(rates) if rates else None


def dropout(rate: float) -> Dropout | None:
    """Return a dropout, or None where nothing is dropped."""
    return Dropout(rate) if rate else None


def dropouts_of(model: nn.Module) -> list[Dropout]:
    """Return every dropout of a model."""
    return [module for module in model.modules() if isinstance(module, Dropout)]


def number_rows(dropouts: Sequence[Dropout], first: int) -> None:
    """Say which row of the step's whole batch the next batch begins with."""
    for each in dropouts:
        each.first_row = first


def _mixed(key: int, row: int) -> int:
    """Return a hash of key and row below 2^63 (SplitMix64, Steele et al. 2014).

    CPU generators take the lowest 32 bits of a seed, and neighbours must differ in them.
    """
    word = (key + (row + 1) * 0x9E3779B97F4A7C15) % (1 << _WORD)
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % (1 << _WORD)
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % (1 << _WORD)
    return (word ^ (word >> 31)) >> 1
