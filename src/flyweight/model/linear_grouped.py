"""Linear layers of 4- and 3-bit integers in groups of columns, each group with its own scale."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.linear_kinds import Grouped, Int3, Int4, LinearKind
from flyweight.model.kernels import WHOLE_BLOCKS, Format, Stored
from flyweight.model.linear_quant import packed_pairs
from flyweight.model.rounded import Rounded

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""How far from zero the lowest code may lie, as shares of a group's largest value."""


class GroupedLinear(Rounded):
    """Integers of a few bits, side by side, and a bfloat16 scale for each group of columns.

    There is one more code below zero than above. The scale's sign makes a group's largest value a
    negative code, so that no code is lost. Of a few sizes it has the one with the least squared
    error: cutting off the largest values is often better than coarse steps.
    """

    rows_apart = 1
    bits: ClassVar[int]
    at_once: ClassVar[int]
    """How many codes one look-up unpacks."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, kind)
        assert isinstance(self.kind, Grouped)
        self.group = self.kind.group
        self.groups = -(-in_features // self.group)
        self.lowest, self.highest = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        width = self.kind.row_bytes(in_features)
        self.register_buffer("codes", torch.zeros(out_features, width, dtype=torch.uint8))
        scales = torch.zeros(out_features, self.groups, dtype=torch.bfloat16)
        self.register_buffer("scales", scales)

    def fit(self, weight: Tensor) -> None:
        """Choose the scale of each group."""
        width = self.groups * self.group
        for start, stop in self._row_blocks(self._step(weight)):
            padded = F.pad(weight[start:stop], (0, width - self.in_features))
            self.scales[start:stop] = self._best(padded.view(-1, self.groups, self.group))

    def refit(self, columns: Tensor, start: int) -> Tensor:
        """Choose anew the scale of the group that these columns (out, n) are: (out,)."""
        scales = self._best(columns)
        self.scales[:, start // self.group] = scales
        return scales.float()

    @property
    def columns_at_once(self) -> int:
        """A group."""
        return self.group

    def steps(self, start: int, stop: int) -> Tensor:
        """Return the scale of each weight of rows `start` to `stop`: (n, in)."""
        scales = self.scales[start:stop].float()
        return scales.repeat_interleave(self.group, 1)[:, : self.in_features]

    def nearest(self, units: Tensor) -> Tensor:
        """Return the integers nearest to weights in units (...), counted from the lowest."""
        codes = units.round_().clamp_(self.lowest, self.highest)
        return codes.sub_(self.lowest).to(torch.uint8)

    def units(self, codes: Tensor) -> Tensor:
        """Return the integers as floats (...)."""
        return codes.float().add_(self.lowest)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        flat = index.reshape(-1).long()
        values = self._values(self.codes[flat], self.scales[flat])
        return values.to(self.dtype).view(*index.shape, self.in_features)

    def stored(self) -> Stored | None:
        """Return the codes and the groups' scales as the compiled products read them."""
        levels = _table(self.bits, 1)[:, 0]
        return Stored(
            self._format(),
            self.codes,
            self.in_features,
            self.scales,
            levels=torch.from_numpy(np.resize(levels, 16)),
            block=self.group,
        )

    def _format(self) -> Format:
        whole = Format.BLOCKS_INT4 if self.bits == 4 else Format.BLOCKS_INT3
        if self.group in WHOLE_BLOCKS[whole]:
            return whole
        return Format.BLOCKS_4BIT if self.bits == 4 else Format.BLOCKS_3BIT

    def kernel_mismatch(self) -> str | None:
        """Return None: there is only the reference."""
        return None

    def _part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        codes, scales = (self._sliced(buffer, start, stop) for buffer in (self.codes, self.scales))
        return self._values(codes, scales).to(dtype)

    def _values(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Return the float32 weights of packed rows (N, bytes), scales (N, groups): (N, in)."""
        places = self._places(codes)  # (N, look-ups)
        values = torch.from_numpy(_table(self.bits, self.at_once)).to(codes.device)
        values = values.index_select(0, places.reshape(-1)).view(len(codes), -1)
        if values.shape[1] == self.groups * self.group == self.in_features:
            whole = values.view(-1, self.groups, self.group).mul_(scales[..., None])
            return whole.view(-1, self.in_features)
        steps = scales.repeat_interleave(self.group, 1)[:, : self.in_features]
        return values[:, : self.in_features] * steps

    @abstractmethod
    def _places(self, codes: Tensor) -> Tensor:
        """Return where to look up packed codes (N, bytes): (N, look-ups) int32."""

    def _best(self, groups: Tensor) -> Tensor:
        """Return the scale of each group (..., group) with the least squared error: (...)."""
        extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # (..., 1)
        best = torch.zeros_like(extreme)
        least = torch.full_like(extreme, torch.inf)
        for share in SHARES:
            scale = (extreme * (share / self.lowest)).to(torch.bfloat16).float()
            units = groups / torch.where(scale != 0, scale, 1)
            rounded = units.round_().clamp_(self.lowest, self.highest).mul_(scale)
            error = rounded.sub_(groups).square_().sum(-1, keepdim=True)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
        return best.squeeze(-1).to(torch.bfloat16)


class Int4Linear(GroupedLinear):
    """Integers from -8 to 7, two a byte, the first in its high half."""

    default_kind = Int4()
    bits = 4
    at_once = 2

    def store(self, codes: Tensor, start: int, stop: int) -> None:
        """Store the codes (n, in) of rows `start` to `stop`, two a byte."""
        self.codes[start:stop] = packed_pairs(codes)

    def _places(self, codes: Tensor) -> Tensor:
        return codes.int()


class Int3Linear(GroupedLinear):
    """Integers from -4 to 3, eight in three bytes, the first in the highest bits."""

    default_kind = Int3()
    bits = 3
    at_once = 4

    def store(self, codes: Tensor, start: int, stop: int) -> None:
        """Store the codes (n, in) of rows `start` to `stop`, eight in three bytes."""
        codes = F.pad(codes, (0, -codes.shape[1] % 8)).view(len(codes), -1, 8).int()
        shifts = torch.arange(21, -1, -3, dtype=torch.int32, device=codes.device)
        words = (codes << shifts).sum(-1, keepdim=True, dtype=torch.int32)  # (n, words, 1)
        shifts = torch.tensor([16, 8, 0], dtype=torch.int32, device=codes.device)
        self.codes[start:stop] = (words >> shifts & 255).to(torch.uint8).flatten(1)

    def _places(self, codes: Tensor) -> Tensor:
        first, middle, last = codes.view(len(codes), -1, 3).int().unbind(-1)  # (N, words) each
        halves = (first << 4 | middle >> 4, (middle & 15) << 8 | last)  # 12 bits each
        return torch.stack(halves, -1).flatten(1)


@cache
def _table(bits: int, at_once: int) -> np.ndarray:
    """Return the integers that so many neighbouring codes are: (2^(bits * at_once), at_once)."""
    every = np.arange(2 ** (bits * at_once))[:, None]
    codes = every >> np.arange(bits * (at_once - 1), -1, -bits) & (2**bits - 1)
    return (codes - 2 ** (bits - 1)).astype(np.float32)
