"""Positions: vectors added to the embedding, or rotations of queries and keys.

The vectors are learned, or sines and cosines.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config import schema


class LearnedPositions(nn.Module):
    """One learned vector per position (first + context, dim); a text begins at `first`."""

    def __init__(self, context: int, dim: int, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(torch.empty(first + context, dim))

    def forward(self, positions: Tensor | None, start: int, length: int) -> Tensor:
        """Return the vectors at `positions` (B, T) of a text: (B, T, dim).

        Without positions they are those at start, start + 1, ...: (T, dim).
        """
        if positions is None:
            return self.weight[self.first + start : self.first + start + length]
        return F.embedding(positions + self.first, self.weight)


class Sinusoids:
    """Row p is sin(p r_0), cos(p r_0), sin(p r_1), ... with r_i = base^(-2i / dim).

    It is computed in float64 and rounded to the dtype asked for. Tables are kept per device and
    dtype and grown by doubling. Like rotary tables they are not buffers. A text begins at row
    `first`.
    """

    def __init__(self, config: schema.Sinusoidal, dim: int, first: int = 0) -> None:
        self.base, self.dim, self.first = config.base, dim, first
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}

    def rows(self, like: Tensor, positions: Tensor | None, start: int, length: int) -> Tensor:
        """Return the vectors at `positions` (B, T) of a text, with device and dtype of `like`.

        That is (B, T, dim). Without positions they are those at start, start + 1, ...: (T, dim).
        """
        start += self.first
        table = self._table(like.device, like.dtype, start + length)
        return table[start : start + length] if positions is None else table[positions + self.first]

    def _table(self, device: torch.device, dtype: torch.dtype, length: int) -> Tensor:
        key = (device, dtype)
        if key not in self._tables or len(self._tables[key]) < length:
            with torch.inference_mode(False), torch.no_grad():  # see RotaryTables
                size = 1 << max(length - 1, 1).bit_length()
                places = torch.arange(size, dtype=torch.float64, device="cpu")
                pairs = torch.arange(-(-self.dim // 2), dtype=torch.float64, device="cpu")
                angles = torch.outer(places, self.base ** (-2 * pairs / self.dim))  # (N, pairs)
                table = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[
                    :, : self.dim
                ]  # (N, dim)
                self._tables[key] = table.to(dtype).to(device)
        return self._tables[key]


class Rotation(ABC):
    """Turns queries and keys by their positions."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return x (B, T, H, D) with its first channels turned."""


@dataclass(frozen=True)
class RotationBySize(Rotation):
    """One rotation for each size of a head, where layers differ in it."""

    sizes: Mapping[int, Rotation]

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (B, T, H, D) turned by the rotation for heads of D channels."""
        return self.sizes[x.shape[-1]](x)


@dataclass(frozen=True)
class PairRotation(Rotation):
    """Factors of a forward pass, equal in all heads: (T, 1, channels) or (B, T, 1, channels)."""

    cos: Tensor
    sin: Tensor  # the sign of the first half is already turned

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (B, T, H, D) with its first channels turned.

        Pairs are (i, i + channels / 2), as in Llama.
        """
        channels = self.cos.shape[-1]
        if channels == x.shape[-1]:
            return self._turn(x)
        return torch.cat((self._turn(x[..., :channels]), x[..., channels:]), -1)

    def _turn(self, x: Tensor) -> Tensor:
        swapped = torch.roll(x, x.shape[-1] // 2, -1)  # (B, T, H, channels)
        return torch.addcmul(x * self.cos, swapped, self.sin)


class RotaryTables:
    """Cosines and sines per device and dtype, computed when first needed and grown by doubling.

    A text begins at position `first`.
    They are not buffers on purpose: a non-persistent buffer of a model that is built on the meta
    device comes back as garbage. Nothing is computed before that: a damaged config may name any
    number of channels, and the tensors will not fit it.
    """

    def __init__(self, config: schema.Rope, head_dim: int, first: int = 0) -> None:
        self.config, self.channels = config, int(head_dim * config.fraction)
        self.first = first
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}

    def rotation(
        self, like: Tensor, dtype: torch.dtype, positions: Tensor | None, start: int, length: int
    ) -> Rotation:
        """Return the factors at `positions` (B, T) of a text, on the device of `like`.

        Without positions they are those at start, ..., start + length - 1.
        """
        start += self.first
        cos, sin = self._table(like.device, dtype, start + length)  # (N, 1, channels) each
        if positions is None:
            return PairRotation(cos[start : start + length], sin[start : start + length])
        return PairRotation(cos[positions + self.first], sin[positions + self.first])

    def _table(
        self, device: torch.device, dtype: torch.dtype, length: int
    ) -> tuple[Tensor, Tensor]:
        key = (device, dtype)
        if key not in self._tables or len(self._tables[key][0]) < length:
            # Tensors made in inference mode could not serve a later training step; MPS has no
            # float64.
            with torch.inference_mode(False), torch.no_grad():
                size = 1 << max(length - 1, 1).bit_length()
                places = torch.arange(size, dtype=torch.float64, device="cpu")
                rates = torch.tensor(
                    frequencies(self.config, self.channels), dtype=torch.float64, device="cpu"
                )
                angles = torch.outer(places, rates)[:, None]  # (N, 1, channels / 2)
                cos, sin = angles.cos(), angles.sin()
                table = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
                self._tables[key] = table[0].to(device, dtype), table[1].to(device, dtype)
        return self._tables[key]


class Rotary:
    """The rotary tables of a model, for each size that its layers' heads have."""

    def __init__(self, config: schema.Rope, sizes: Iterable[int], first: int = 0) -> None:
        self.by_size = {size: RotaryTables(config, size, first) for size in sizes}

    def rotation(
        self, like: Tensor, dtype: torch.dtype, positions: Tensor | None, start: int, length: int
    ) -> Rotation:
        """Return the factors of one forward pass, as `RotaryTables.rotation` does."""
        rotations = {
            size: tables.rotation(like, dtype, positions, start, length)
            for size, tables in self.by_size.items()
        }
        if len(rotations) == 1:
            return next(iter(rotations.values()))
        return RotationBySize(rotations)


def frequencies(config: schema.Rope, channels: int) -> list[float]:
    """Return the angle per position of each pair of channels, in radians, scaling included."""
    base, scaling = config.base, config.scaling
    if scaling is not None and scaling.kind == "ntk" and channels > 2:
        base *= scaling.factor ** (channels / (channels - 2))
    plain = [base ** (-2 * pair / channels) for pair in range(channels // 2)]
    if scaling is None or scaling.kind == "ntk":
        return plain
    if scaling.kind == "linear":
        return [rate / scaling.factor for rate in plain]
    return [_llama3(rate, scaling) for rate in plain]


def _llama3(rate: float, scaling: schema.RopeScaling) -> float:
    """Keep short waves, slow down long ones by `factor`, interpolate between (Llama 3.1)."""
    turns = (
        scaling.original_context * rate / (2 * math.pi)
    )  # full turns within the original context
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    if turns < low:
        return rate / scaling.factor
    if turns > high:
        return rate
    part = (turns - low) / (high - low)
    return (1 - part) * rate / scaling.factor + part * rate
