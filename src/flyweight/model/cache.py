"""Keys and values of the tokens that a model has already read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flyweight.errors import RequestError
from flyweight.model.masks import WHOLE, KeyLayout


class CacheSlot(Protocol):
    """One visit's keys and values."""

    def layout(self, tokens: int) -> KeyLayout:
        """Return which tokens the keys belong to that `extend` returns for so many new ones."""
        ...

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H_kv, T, D).

        Return those that the new tokens may see, (B, H_kv, S, D).
        """
        ...


class Cache(Protocol):
    """What a decoder needs of a cache: `length` tokens were read.

    `last` (B, n) are those that a bigram table needs.
    """

    length: int
    last: Tensor | None

    def reserve(self, tokens: int, row_starts: Tensor | None = None) -> None:
        """Raise RequestError if `tokens` more do not fit.

        `row_starts` (B,) are the columns of the first tokens of padded rows.
        """
        ...

    def slot(self, index: int) -> CacheSlot:
        """Return the part of one visit that attends: `index` counts those."""
        ...

    def advance(self, tokens: int, last: Tensor | None) -> None:
        """Count `tokens` as read once every slot has them."""
        ...


@dataclass(frozen=True)
class SlotShape:
    """What one visit's part of a cache holds: heads of `width` numbers a token.

    `width` of a thinking model has room for the memory's keys beside the pass's own. With a
    `window` the last so many tokens are held, and the first `sinks` of each row.
    """

    kv_heads: int
    width: int
    window: int | None = None
    sinks: int = 0

    def tokens(self, length: int) -> int:
        """Return the places for keys in a cache for `length` tokens: sinks, then a ring or all."""
        if self.window is None:
            return length
        return self.sinks + min(length, self.window)


class KVCache:
    """Preallocated keys and values, one slot per visit, and the last tokens of every row.

    A bigram table needs the latter. Raises RequestError where more tokens come than fit.
    """

    def __init__(
        self,
        shapes: Sequence[SlotShape],
        batch: int,
        length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.shapes = tuple(shapes)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for shape in self.shapes:
            size = (batch, shape.kv_heads, shape.tokens(length), shape.width)
            # Masked keys count nothing, unless their values are not numbers: sinks begin as zeros.
            make = torch.empty if shape.window is None else torch.zeros
            self.keys.append(make(size, device=device, dtype=dtype))  # (B, H_kv, L, width)
            self.values.append(make(size, device=device, dtype=dtype))  # (B, H_kv, L, width)
        self.capacity = length
        self.length = 0
        self.last: Tensor | None = None  # (B, n)
        self.row_starts: Tensor | None = None  # (B,)

    def drops(self, length: int) -> bool:
        """Return whether reading the first `length` tokens drops some of them."""
        return any(shape.window is not None and shape.window < length for shape in self.shapes)

    def reserve(self, tokens: int, row_starts: Tensor | None = None) -> None:
        """Raise RequestError if `tokens` more do not fit.

        `row_starts` (B,) are the columns of the first tokens of padded rows.
        """
        if self.length + tokens > self.capacity:
            raise RequestError(
                f"key/value cache: {self.length} + {tokens} tokens do not fit its length "
                f"{self.capacity}; make a longer one"
            )
        self.row_starts = row_starts

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

        Return whether this could be done: not where a window has dropped some of them.
        """
        if length < self.length and self.drops(self.length):
            return False
        self.length = length
        self.last = kept
        return True

    def resize(self, length: int) -> None:
        """Make room for `length` tokens in all; what is held stays."""
        for index, shape in enumerate(self.shapes):
            count = shape.tokens(self.length)
            for parts in (self.keys, self.values):
                old = parts[index]
                size = (*old.shape[:2], shape.tokens(length), old.shape[3])  # (B, H_kv, L, width)
                parts[index] = old.new_zeros(size) if shape.window else old.new_empty(size)
                parts[index][:, :, :count] = old[:, :, :count]
        self.capacity = length

    def slot(self, index: int) -> CacheSlot:
        """Return one visit's part."""
        shape = self.shapes[index]
        if shape.window is None:
            return KVSlot(self, index)
        return WindowSlot(self, index, shape.window, shape.sinks)

    def nbytes(self) -> int:
        """Return the bytes that are held."""
        return sum(part.nbytes for part in (*self.keys, *self.values))


@dataclass(frozen=True)
class KVSlot:
    """One visit's part of a cache, with room for every token."""

    cache: KVCache
    index: int

    def layout(self, tokens: int) -> KeyLayout:
        """Return that all keys are there, in their order."""
        return WHOLE

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H_kv, T, D) and return all so far (B, H_kv, S, D)."""
        cache, start = self.cache, self.cache.length
        end = start + keys.shape[2]
        held_keys, held_values = cache.keys[self.index], cache.values[self.index]
        held_keys[:, :, start:end] = keys
        held_values[:, :, start:end] = values
        return held_keys[:, :, :end], held_values[:, :, :end]


@dataclass(frozen=True)
class WindowSlot:
    """One visit's part of a cache that holds a window of tokens and the first ones of every row.

    sinks (2)   window (4)     after 9 tokens
    1  0        8  5  6  7     token t is at sinks + t modulo window, sink s at sinks - 1 - s

    So the sinks that the window has left and what the window holds lie side by side.
    """

    cache: KVCache
    index: int
    window: int
    sinks: int

    def layout(self, tokens: int) -> KeyLayout:
        """Return which keys `extend` returns for so many new tokens."""
        start = self.cache.length
        end = start + tokens
        if start == 0 or end <= self.window:
            return WHOLE
        if tokens == 1:
            return KeyLayout(min(self.sinks, end - self.window), 0, ring=self.window)
        return KeyLayout(self.sinks, max(0, start - self.window + 1))

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H_kv, T, D).

        Return those that the new tokens may see, (B, H_kv, S, D).
        """
        held_keys, held_values = self.cache.keys[self.index], self.cache.values[self.index]
        return self._extend(held_keys, keys), self._extend(held_values, values)

    def _extend(self, stored: Tensor, new: Tensor) -> Tensor:
        start = self.cache.length
        tokens = new.shape[2]
        end = start + tokens
        layout = self.layout(tokens)
        new = new.to(stored.dtype)
        if start == 0:
            self._store(stored, new, start, end)
            return new
        if tokens > 1 and end > self.window:
            before = stored[:, :, self._places(layout.first, start, stored)]
            self._store(stored, new, start, end)
            return torch.cat((stored[:, :, : self.sinks], before, new), 2)
        self._store(stored, new, start, end)
        return stored[:, :, self.sinks - layout.sinks : self.sinks + min(end, self.window)]

    def _places(self, start: int, end: int, stored: Tensor) -> Tensor:
        """Return where the tokens from `start` to `end` are held."""
        return self.sinks + torch.arange(start, end, device=stored.device) % self.window

    def _store(self, stored: Tensor, new: Tensor, start: int, end: int) -> None:
        first = max(start, end - self.window)
        place = first % self.window
        if place + end - first <= self.window:
            where = slice(self.sinks + place, self.sinks + place + end - first)
            stored[:, :, where] = new[:, :, first - start :]
        else:
            stored[:, :, self._places(first, end, stored)] = new[:, :, first - start :]
        starts = self.cache.row_starts
        if not self.sinks:
            return
        if starts is None:
            stop = min(end, self.sinks)
            if start < stop:
                places = slice(self.sinks - stop, self.sinks - start)
                stored[:, :, places] = new[:, :, : stop - start].flip(2)
            return
        numbers = torch.arange(self.sinks - 1, -1, -1, device=stored.device)
        columns = starts[:, None] + numbers - start  # (B, sinks), counted from the first new token
        mine = ((columns >= 0) & (columns < new.shape[2]))[:, None, :, None]
        places = columns.clamp(0, new.shape[2] - 1)[:, None, :, None]
        first_tokens = new.gather(2, places.expand(-1, new.shape[1], -1, new.shape[3]))
        stored[:, :, : self.sinks] = torch.where(mine, first_tokens, stored[:, :, : self.sinks])
