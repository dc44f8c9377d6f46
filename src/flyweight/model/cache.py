"""Keys and values of the tokens that a model has already read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flyweight.errors import RequestError


class Memory(Protocol):
    """One visit's keys and values."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H_kv, T, D) and return all so far (B, H_kv, S, D)."""
        ...


class Cache(Protocol):
    """What a decoder needs of a cache: `length` tokens were read.

    `last` (B, n) are those that a bigram table needs.
    """

    length: int
    last: Tensor | None

    def reserve(self, tokens: int) -> None:
        """Raise RequestError if `tokens` more do not fit."""
        ...

    def slot(self, index: int) -> Memory:
        """Return the part of one visit that attends: `index` counts those."""
        ...

    def advance(self, tokens: int, last: Tensor | None) -> None:
        """Count `tokens` as read once every slot has them."""
        ...


class KVCache:
    """Preallocated keys and values, one slot per visit, and the last tokens of every row (for a bigram table).

    `widths` are the channels of each slot, `kv_heads` its heads: a thinking model's slots hold the
    memory's keys beside the pass's own.
    """

    def __init__(
        self,
        widths: Sequence[int],
        batch: int,
        kv_heads: Sequence[int],
        length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shapes = [
            (batch, heads, length, width) for heads, width in zip(kv_heads, widths, strict=True)
        ]
        self.keys = [
            torch.empty(shape, device=device, dtype=dtype) for shape in shapes
        ]  # (B, H_kv, L, width) each
        self.values = [
            torch.empty(shape, device=device, dtype=dtype) for shape in shapes
        ]  # (B, H_kv, L, width) each
        self.capacity = length
        self.length = 0
        self.last: Tensor | None = None  # (B, n)

    def reserve(self, tokens: int) -> None:
        """Raise RequestError if `tokens` more do not fit."""
        if self.length + tokens > self.capacity:
            raise RequestError(
                f"key/value cache: {self.length} + {tokens} tokens do not fit its length "
                f"{self.capacity}; make a longer one"
            )

    def advance(self, tokens: int, last: Tensor | None) -> None:
        """Count `tokens` as read once every slot has them; `last` (B, n) are the newest."""
        self.length += tokens
        self.last = last

    def select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""
        self.keys = [keys.index_select(0, rows) for keys in self.keys]
        self.values = [values.index_select(0, rows) for values in self.values]
        if self.last is not None:
            self.last = self.last.index_select(0, rows)

    def truncate(self, length: int, kept: Tensor) -> bool:
        """Forget all tokens but `kept` (1, length), the first that were read.

        Return that this could be done.
        """
        self.length, self.last = length, kept
        return True

    def resize(self, length: int) -> None:
        """Make room for `length` tokens in all; what is held stays."""
        for parts in (self.keys, self.values):
            for index, old in enumerate(parts):
                parts[index] = old.new_empty(
                    (*old.shape[:2], length, old.shape[3])
                )  # (B, H_kv, L, width)
                parts[index][:, :, : self.length] = old[:, :, : self.length]
        self.capacity = length

    def slot(self, index: int) -> Slot:
        """Return one visit's part."""
        return Slot(self, index)

    def nbytes(self) -> int:
        """Return the bytes that are held."""
        return sum(part.nbytes for part in (*self.keys, *self.values))


@dataclass(frozen=True)
class Slot:
    """One visit's part of a cache."""

    cache: KVCache
    index: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H_kv, T, D) and return all so far (B, H_kv, S, D)."""
        cache, start = self.cache, self.cache.length
        end = start + keys.shape[2]
        held_keys, held_values = cache.keys[self.index], cache.values[self.index]
        held_keys[:, :, start:end] = keys
        held_values[:, :, start:end] = values
        return held_keys[:, :, :end], held_values[:, :, :end]
