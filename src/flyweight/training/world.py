"""The processes that train one model together, as the training loop sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

Number = TypeVar("Number", int, float)


class World(Protocol):
    """Process `rank` of `size`, each of which has the whole model and reads its share of a step.

    All processes make the same calls in the same order. Gradients are added and not averaged: each
    process has already divided its losses by the number of targets of all processes.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    def sum(self, number: Number) -> Number:
        """Return the sum of what all processes give."""
        ...

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradient of each parameter by its sum over all processes."""
        ...


class OneProcess:
    """A training in a single process: every sum is its own number."""

    @property
    def rank(self) -> int:
        """The number of the only process."""
        return 0

    @property
    def size(self) -> int:
        """One process."""
        return 1

    def sum(self, number: Number) -> Number:
        """Return the number."""
        return number

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Leave the gradients as they are: nobody else has any."""
