"""Training batches: shuffled windows of a split, where any step can be computed from its number alone."""

from __future__ import annotations

import numpy as np

from flyweight.data.corpus import Split
from flyweight.errors import RequestError


class Windows:
    """Non-overlapping windows of `context` tokens and their targets, in a new order and at a new phase in every epoch.

    Window number g = step * size + row is the (g mod windows)-th of epoch g // windows, so the sequence of windows does not
    depend on the batch size, batches run on over the ends of epochs, and nothing has to be saved to resume anywhere. In epoch e
    all windows start a random number of tokens (less than `context`) into the split, so that boundaries move; order and
    phase come from (seed, e). An order takes 8 bytes a window.
    """

    def __init__(self, split: Split, context: int, batch: int, seed: int) -> None:
        """Prepare to read batches of `batch` windows; raise RequestError where the split is shorter than one window."""
        self._tokens, self.context, self.size, self.seed = split.tokens, context, batch, seed
        targets = len(split.tokens) - 1
        if targets < context:
            raise RequestError(
                f"the {split.name} split has {len(split.tokens)} tokens, but one window of context {context} and its targets"
                f" need {context + 1}; use more text or a smaller data.context"
            )
        # Room for every phase, except where there is hardly more than one window.
        self.windows = max(1, (targets - context + 1) // context)
        self._phases = min(context, targets - self.windows * context + 1)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def _order(self, epoch: int) -> tuple[int, np.ndarray]:
        """Return an epoch's phase and its order of windows; the last two are kept, for batches across an epoch's end."""
        if epoch not in self._orders:
            random = np.random.default_rng([self.seed, epoch])
            self._orders = dict(list(self._orders.items())[-1:])
            self._orders[epoch] = (int(random.integers(self._phases)), random.permutation(self.windows))
        return self._orders[epoch]

    def starts(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """Return the token offsets at which a step's windows start: (rows,) int64."""
        numbers = step * self.size + np.arange(self.size, dtype=np.int64)[rows]  # (rows,)
        found = np.empty_like(numbers)
        epochs = numbers // self.windows
        for epoch in np.unique(epochs):
            phase, order = self._order(int(epoch))
            chosen = epochs == epoch
            found[chosen] = phase + order[numbers[chosen] % self.windows] * self.context
        return found

    def batch(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs and targets of a step, or of some of its rows: two (rows, context) int64 arrays."""
        windows = self._tokens.gather(self.starts(step, rows), self.context + 1).astype(np.int64)  # (rows, context + 1)
        return windows[:, :-1], windows[:, 1:]
