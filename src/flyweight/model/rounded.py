"""What layers share that store rounded weights: codes under scales, whoever chooses the codes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from flyweight.model.packed import Packed


class Rounded(Packed):
    """A packed layer whose weights are codes times scales.

    `pack` rounds each weight to the nearest code. GPTQ takes the same steps in another order.
    """

    codes: Tensor
    scales: Tensor

    @torch.no_grad()
    def pack(self, weight: Tensor) -> None:
        """Store this weight (out, in): each value as the nearest code under the scales of `fit`.

        Raises FlyweightError for another shape or a value that is not finite.
        """
        weight = self.checked(weight)
        self.fit(weight)
        for start, stop in self._row_blocks(self._step(weight)):
            steps = self.steps(start, stop)  # (n, in or 1)
            units = weight[start:stop] / torch.where(steps != 0, steps, 1)  # (n, in)
            self.store(self.nearest(units), start, stop)

    def rounded(self, weight: Tensor) -> Tensor:
        """Return what the layer would stand for with this float32 weight (out, in) packed.

        The scales are those of the weight; the codes are not stored.
        """
        self.fit(weight)
        result = torch.empty_like(weight)
        for start, stop in self._row_blocks(self._step(weight)):
            steps = self.steps(start, stop)  # (n, in or 1)
            units = weight[start:stop] / torch.where(steps != 0, steps, 1)  # (n, in)
            result[start:stop] = self.units(self.nearest(units)).mul_(steps)
        return result

    @abstractmethod
    def fit(self, weight: Tensor) -> None:
        """Choose and store the scales for a float32 weight (out, in)."""

    @property
    def columns_at_once(self) -> int | None:
        """How many columns `refit` takes at a time; None where scales stay those of `fit`."""
        return None

    def refit(self, columns: Tensor, start: int) -> Tensor:
        """Choose anew the scale of the group that these columns (out, n) are, and return it (out,).

        GPTQ calls it with columns that make up for the errors of those before `start`. Only kinds
        whose scales depend on nothing but their group have it.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps its scales")

    @abstractmethod
    def steps(self, start: int, stop: int) -> Tensor:
        """Return what a unit is in each weight of rows `start` to `stop`, float32: (n, in or 1)."""

    @abstractmethod
    def nearest(self, units: Tensor) -> Tensor:
        """Return the codes (...) nearest to weights in units (...), which may change in place."""

    @abstractmethod
    def units(self, codes: Tensor) -> Tensor:
        """Return what codes (...) stand for, in units, float32: (...)."""

    @abstractmethod
    def store(self, codes: Tensor, start: int, stop: int) -> None:
        """Store the codes (n, in) of rows `start` to `stop` in the buffer."""
