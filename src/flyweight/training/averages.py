"""The running average of the weights of a training, which is what is validated and kept.

Its decay grows with the steps, min(decay, (1 + step) / (10 + step)), so that random first weights
are soon forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Averages(torch.optim.Optimizer):
    """Exponential averages of tensors, in their own dtype; its step moves the averages alone.

    An optimizer's state goes into checkpoints, and so do they.
    """

    def __init__(self, tensors: Iterable[Tensor], decay: float) -> None:
        super().__init__(tensors, {"decay": decay})
        for tensor in self._tensors():
            self.state[tensor] = {"step": torch.zeros(()), "average": tensor.detach().clone()}

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], object] | None = None
    ) -> None:
        """Let the averages follow the tensors, which have just moved."""
        for group in self.param_groups:
            for tensor in group["params"]:
                state = self.state[tensor]
                state["step"] += 1
                step = state["step"].item()
                decay = min(group["decay"], (1 + step) / (10 + step))
                state["average"].lerp_(tensor, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the tensors with their averages."""
        for tensor in self._tensors():
            average = self.state[tensor]["average"]
            kept = tensor.clone()
            tensor.copy_(average)
            average.copy_(kept)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Hold the averages in the tensors' place for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def _tensors(self) -> Iterator[Any]:
        for group in self.param_groups:
            yield from group["params"]
