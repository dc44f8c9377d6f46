"""Shuffled windows of a split: a source of batches in which every target is real."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flyweight.data.batch import IGNORE, Batch, rank_rows
from flyweight.data.corpus import Split
from flyweight.data.documents import DocumentIds
from flyweight.errors import RequestError


class Windows:
    """Windows of `context` tokens and their targets, in a new order and phase in every epoch.

    The split is read as a ring: the token after its last target is its first. In epoch e the
    windows lie one after another from a random token on, so that every target is drawn equally
    often in expectation, those at both ends too. A window over the end holds true pairs of token
    and next token; only its context has a seam. Where the windows do not fill the ring, what is
    left over (less than a window) is another part in every epoch.

    Window number g = step * size + row is the (g mod windows)-th of epoch g // windows. The
    sequence of windows does not depend on the batch size, and batches run on over the ends of
    epochs. Nothing has to be saved to resume anywhere. Order and phase come from (seed, e). An
    order takes 8 bytes a window.

    Isolated documents have ids, and begin tokens do not count as targets then.
    """

    def __init__(
        self,
        split: Split,
        context: int,
        batch: int,
        seed: int,
        documents: Literal["joined", "isolated"] = "joined",
    ) -> None:
        """Prepare to read batches of `batch` windows.

        Raises RequestError where the split is shorter than one window, or its documents cannot be
        told apart.
        """
        self._tokens = split.tokens
        self._ids = DocumentIds(split) if documents == "isolated" else None
        self.context = context
        self.size = batch
        self.seed = seed
        self.documents = documents
        self.targets = len(split.tokens) - 1
        if self.targets < context:
            raise RequestError(
                f"the {split.name} split has {len(split.tokens)} tokens, but one window of "
                f"context {context} and its targets need {context + 1}; use more text or a "
                f"smaller data.context"
            )
        self.windows = self.targets // context
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def _order(self, epoch: int) -> tuple[int, np.ndarray]:
        """Return an epoch's phase and its order of windows.

        The last two are kept, for batches across an epoch's end.
        """
        if epoch not in self._orders:
            random = np.random.default_rng([self.seed, epoch])
            self._orders = dict(list(self._orders.items())[-1:])
            self._orders[epoch] = (
                int(random.integers(self.targets)),
                random.permutation(self.windows),
            )
        return self._orders[epoch]

    def numbers(
        self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1
    ) -> np.ndarray:
        """Return the numbers of a step's windows, (rows,) int64: the same for any batch size."""
        share = np.arange(self.size, dtype=np.int64)[rank_rows(self.size, rank, world)]
        return step * self.size + share[rows]

    def starts(
        self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1
    ) -> np.ndarray:
        """Return the offsets of the first tokens of a step's windows, (rows,) int64.

        Each is below the number of targets.
        """
        numbers = self.numbers(step, rows, rank, world)
        starts = np.empty_like(numbers)
        epochs = numbers // self.windows
        for epoch in np.unique(epochs):
            phase, order = self._order(int(epoch))
            chosen = epochs == epoch
            starts[chosen] = phase + order[numbers[chosen] % self.windows] * self.context
        return starts % self.targets

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return the windows of a step that process `rank` of `world` reads, or some of them.

        Raises RequestError where the processes cannot share the windows evenly.
        """
        import torch

        starts = self.starts(step, rows, rank, world)
        within = np.minimum(starts, self.targets - self.context)
        windows = self._tokens.gather(within, self.context + 1)  # (rows, context + 1)
        windows = windows.astype(np.int64)
        inputs, targets = windows[:, :-1].copy(), windows[:, 1:].copy()
        for row in np.flatnonzero(starts > within):  # over the end
            tail = self._tokens[int(starts[row]) : self.targets + 1]
            head = self._tokens[: self.context - len(tail) + 2]
            inputs[row] = np.concatenate([tail[:-1], head[:-1]])
            targets[row] = np.concatenate([tail[1:], head[1:]])
        documents, real = None, targets.size
        if self._ids is not None:
            targets[self._ids.untold(starts, self.context)] = IGNORE
            documents = torch.from_numpy(self._ids.ids(starts, self.context))
            real = int((targets != IGNORE).sum())
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            real_targets=real,
            documents=documents,
        )
