"""The processes that train one model together, as the training loop sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, distributed

from flyweight.errors import FlyweightError

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


class ProcessGroup:
    """The processes of torch.distributed's default group, which the caller has set up."""

    def __init__(self) -> None:
        """Raise FlyweightError where the group has not been set up."""
        if not (distributed.is_available() and distributed.is_initialized()):
            raise FlyweightError(
                "torch.distributed has no process group; call init_process_group before training"
            )
        self._rank = distributed.get_rank()
        self._size = distributed.get_world_size()

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self._size

    def sum(self, number: Number) -> Number:
        """Return the sum of what all processes give, an int in 64 bits or a float in 64 bits."""
        kind = torch.int64 if isinstance(number, int) else torch.float64
        total = torch.tensor([number], dtype=kind)
        distributed.all_reduce(total)
        return type(number)(total.item())

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradient of each parameter by its sum over all processes.

        A parameter that has a gradient in some processes only counts as zero in the others. One
        that has none anywhere keeps none, so that optimizers leave it alone.
        """
        present = torch.tensor([parameter.grad is not None for parameter in parameters]).int()
        distributed.all_reduce(present)
        pending = []
        for parameter, processes in zip(parameters, present.tolist(), strict=True):
            if not processes:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(distributed.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()
