"""Batches of examples: a source of rows in which completions alone are learned.

Padding puts one example in a row, isolated packing as many as fit:

    ids        p  p  a  a  <end>   q  b  <end>
    inputs     p  p  a  a          q  b          pad
    targets    .  a  a  <end>      b  <end>      .          . is not learned
    documents  0  0  0  0          1  1          2

The last token of an example is only a target, so that no example predicts the next one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from flyweight.data.batch import IGNORE, Batch, rank_rows
from flyweight.data.tasks.folder import ExampleSplit
from flyweight.errors import RequestError


def packed_rows(lengths: np.ndarray, context: int) -> list[np.ndarray]:
    """Return rows of examples whose inputs together are `context` tokens at most.

    `lengths` (N,) are their inputs. The longest come first, each into the fullest row that has room
    for it (best fit decreasing).
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by the tokens that are free in them
    free = 0  # bit r is set where some row has r tokens free
    for example in np.argsort(-lengths, kind="stable"):
        length = int(lengths[example])
        fitting = free >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                free &= ~(1 << room)
        else:
            room = context
            row = len(rows)
            rows.append([])
        rows[row].append(int(example))
        with_room.setdefault(room - length, []).append(row)
        free |= 1 << (room - length)
    return [np.asarray(row, np.int64) for row in rows]


class ExampleBatches:
    """Rows of examples in a new order in every epoch; the rows themselves stay the same.

    Row number g = step * size + row is the (g mod rows)-th of epoch g // rows: the sequence of rows
    does not depend on the batch size, and batches run on over the ends of epochs. Nothing has to be
    saved to resume anywhere. Orders come from (seed, epoch).
    """

    def __init__(
        self,
        split: ExampleSplit,
        context: int,
        batch: int,
        seed: int,
        packing: Literal["isolated", "padding"] = "isolated",
        loss: Literal["completion", "all"] = "completion",
    ) -> None:
        """Prepare to read batches of `batch` rows.

        Raises RequestError for a split without examples.
        """
        if not len(split):
            raise RequestError(f"the {split.name} split has no example; add rows")
        self._split = split
        self.context = context
        self.size = batch
        self.seed = seed
        self.packing = packing
        self.loss = loss
        self.examples = len(split)
        if packing == "isolated":
            self._rows = packed_rows(split.inputs, context)
        else:
            self._rows = [np.asarray([example]) for example in range(len(split))]
        self._orders: dict[int, np.ndarray] = {}

    @property
    def rows(self) -> int:
        """The rows of an epoch."""
        return len(self._rows)

    def examples_in(self, rows: int) -> int:
        """Return how many examples the first `rows` rows of a training hold, repeats included."""
        epochs, rest = divmod(rows, self.rows)
        last = sum(len(self._rows[row]) for row in self._order(epochs)[:rest])
        return epochs * self.examples + last

    def _order(self, epoch: int) -> np.ndarray:
        """Return an epoch's order of rows; the last two are kept, for batches across an end."""
        if epoch not in self._orders:
            random = np.random.default_rng([self.seed, epoch])
            self._orders = dict(list(self._orders.items())[-1:])
            self._orders[epoch] = random.permutation(self.rows)
        return self._orders[epoch]

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return the rows of a step that process `rank` of `world` reads, or some of them.

        Raises RequestError where the processes cannot share the rows evenly.
        """
        share = np.arange(self.size, dtype=np.int64)[rank_rows(self.size, rank, world)]
        numbers = step * self.size + share[rows]
        return self._filled(
            [self._rows[self._order(int(at // self.rows))[at % self.rows]] for at in numbers]
        )

    def first(self, inputs: int, batch: int) -> list[Batch]:
        """Return the first epoch's batches up to `inputs` tokens, at least one row of them."""
        order = self._order(0)[: max(1, inputs // self.context)]
        return [
            self._filled([self._rows[row] for row in order[start : start + batch]])
            for start in range(0, len(order), batch)
        ]

    def _filled(self, rows: list[np.ndarray]) -> Batch:
        """Return rows of example numbers as a batch."""
        import torch

        shape = (len(rows), self.context)
        inputs = np.zeros(shape, np.int64)
        targets = np.full(shape, IGNORE, np.int64)
        documents = np.zeros(shape, np.int64)
        for row, examples in enumerate(rows):
            start = 0
            for number, example in enumerate(examples):
                ids, prompt = self._split.example(int(example))
                stop = start + len(ids) - 1
                first = 0 if self.loss == "all" else prompt - 1
                inputs[row, start:stop] = ids[:-1]
                targets[row, start + first : stop] = ids[1 + first :]
                for begin, end in self._split.earlier(int(example)):
                    targets[row, start + begin - 1 : start + end - 1] = ids[begin:end]
                documents[row, start:stop] = number
                start = stop
            documents[row, start:] = len(examples)  # padding is by itself
        isolated = self.packing == "isolated"
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            real_targets=int((targets != IGNORE).sum()),
            documents=torch.from_numpy(documents) if isolated else None,
        )
