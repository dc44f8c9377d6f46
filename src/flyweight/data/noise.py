"""Inputs of which some are exchanged for other tokens while a model learns, its targets staying.

Unigram noising of Xie et al. 2017, *Data Noising as Smoothing in Neural Network Language Models*:
what stands in a token's place is drawn from the text that is learned, as often as it stands there.
So a text that is read many times is never read twice alike, and no model needs a token for it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flyweight.data.batch import Batch, BatchSource, rank_rows
from flyweight.data.shards import Tokens

_NOISE = 1
"""Tells the numbers drawn here from others that the same seed is for."""


class NoisyInputs:
    """A source of batches whose inputs are exchanged, each with probability `rate`.

    `text` are the tokens that others are drawn from. What is drawn for a row is a function of the
    seed and of the row's number in the whole training, step * size + row: micro-batches, processes
    and a resumed run read the same, and so does another batch size.
    """

    def __init__(
        self, source: BatchSource, text: Tokens, rate: float, size: int, seed: int
    ) -> None:
        self.source, self.text = source, text
        self.rate, self.size, self.seed = rate, size, seed

    @property
    def context(self) -> int:
        """The number of inputs in each row."""
        return self.source.context

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return a batch of the source, with what a model that learns reads of it."""
        import torch

        batch = self.source.batch(step, rows, rank, world)
        share = np.arange(self.size, dtype=np.int64)[rank_rows(self.size, rank, world)]
        noisy = batch.inputs.numpy().copy()  # (B, T)
        for row, number in zip(noisy, step * self.size + share[rows], strict=True):
            random = np.random.default_rng([self.seed, int(number), _NOISE])
            exchanged = np.flatnonzero(random.random(len(row)) < self.rate)
            places = random.integers(len(self.text), size=len(exchanged))
            row[exchanged] = self.text.gather(places, 1)[:, 0]
        return replace(batch, noisy=torch.from_numpy(noisy))
