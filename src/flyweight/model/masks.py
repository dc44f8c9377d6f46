"""Which keys a query sees: earlier ones, of its own document, within its window, and no padding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.spec.windows import QueryBlock, query_blocks


@dataclass(frozen=True)
class AttentionMask:
    """What queries may look at: `causal` without a mask is the fast path.

    `mask` is (B or 1, 1, T, S) of bool, True where a query sees a key. A sliding window has
    `blocks` instead, one after another along the queries. In front of all other keys are those of
    a `prefix`, so many, which every query sees; where they are, `causal` has a mask too.
    """

    causal: bool
    mask: Tensor | None = None
    blocks: tuple[WindowBlock, ...] = ()
    prefix: int = 0
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """Return the mask as numbers to add to scores, 0 or -inf.

        They are made once, because backward keeps them: all layers share one tensor.
        """
        if self.mask is None:
            return None
        if dtype not in self._additive:
            zeros = torch.zeros(self.mask.shape, dtype=dtype, device=self.mask.device)
            self._additive[dtype] = zeros.masked_fill_(~self.mask, -torch.inf)
        return self._additive[dtype]

    def for_two_keys_per_token(self, length: int, device: torch.device) -> AttentionMask:
        """Return the same for two keys a token: that of the memory, then its own."""
        if self.blocks:
            return AttentionMask(
                causal=False,
                blocks=tuple(block.for_two_keys_per_token(device) for block in self.blocks),
            )
        mask = self._explicit(length, device)
        if mask is not None:
            mask = mask.repeat_interleave(2, -1)  # (B or 1, 1, T, 2S)
        return AttentionMask(causal=False, mask=mask)

    def behind_prefix(self, prefix: int, length: int, device: torch.device) -> AttentionMask:
        """Return the same for `length` queries with so many keys of a prefix in front."""
        if self.blocks:
            blocks = tuple(block.behind_prefix(prefix, device) for block in self.blocks)
            return AttentionMask(causal=False, blocks=blocks, prefix=prefix)
        mask = self._explicit(length, device)
        if mask is not None:
            mask = F.pad(mask, (prefix, 0), value=True)  # (B or 1, 1, T, prefix + S)
        return AttentionMask(causal=self.causal, mask=mask, prefix=prefix)

    def _explicit(self, length: int, device: torch.device) -> Tensor | None:
        if self.mask is None and self.causal:
            return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        return self.mask


@dataclass(frozen=True)
class WindowBlock:
    """Some queries of a sliding window, where their keys lie, and what they see of them.

    `sinks` (B or 1, n) are the places of the sinks' keys, which come before the others.
    """

    queries: slice
    keys: slice
    sinks: Tensor | None
    mask: AttentionMask

    def select(self, keys: Tensor) -> Tensor:
        """Return the keys (B, H_kv, S, D) that this block reads: (B, H_kv, n + K, D)."""
        near = keys[:, :, self.keys]
        if self.sinks is None:
            return near
        places = self.sinks[:, None, :, None].expand(len(keys), keys.shape[1], -1, keys.shape[3])
        return torch.cat((keys.gather(2, places), near), 2)

    def for_two_keys_per_token(self, device: torch.device) -> WindowBlock:
        """Return the same for two keys a token: places are counted in tokens and stay."""
        mask = self.mask.for_two_keys_per_token(self._length, device)
        return WindowBlock(self.queries, self.keys, self.sinks, mask)

    def behind_prefix(self, prefix: int, device: torch.device) -> WindowBlock:
        """Return the same with the keys of a prefix in front of those that `select` returns."""
        mask = self.mask.behind_prefix(prefix, self._length, device)
        return WindowBlock(self.queries, self.keys, self.sinks, mask)

    @property
    def _length(self) -> int:
        return self.queries.stop - self.queries.start


class KeyLayout(NamedTuple):
    """Which tokens the keys belong to that a slot of a cache returns.

    First come the keys of `sinks` tokens, the last sink first, then those of the tokens `first`,
    `first` + 1, ... A `ring` of so many keys has them in another order, for a single query: the
    key of token t is at place t modulo its size.
    """

    sinks: int = 0
    first: int = 0
    ring: int | None = None


WHOLE = KeyLayout()
"""All tokens from the first on: without a cache, and in a cache that forgets nothing."""


def document_starts(documents: Tensor) -> Tensor:
    """Return the column where each token's document begins, (B, T), of document ids (B, T)."""
    columns = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return torch.where(begins, columns, 0).cummax(1).values


class TokenSpan:
    """New tokens in their columns, and what masks of them depend on; each mask is made once.

    `real` (B, S) is False on padding, over cached and new tokens. `starts` (B, T) are the columns
    where documents begin.
    """

    def __init__(
        self,
        start: int,
        length: int,
        real: Tensor | None,
        starts: Tensor | None,
        device: torch.device,
    ) -> None:
        self.start = start
        self.length = length
        self.real = real
        self.starts = starts
        self.device = device
        self._masks: dict[tuple[int | None, int, int, KeyLayout, int], AttentionMask] = {}

    @cached_property
    def row_starts(self) -> Tensor | None:
        """The column of the first token of every row, (B,): None where no row is padded."""
        if self.real is None:
            return None
        return (~self.real).long().cumprod(1).sum(1)

    @property
    def positions(self) -> Tensor | None:
        """The positions of the new tokens, (B, T): None where they are their columns."""
        if self.starts is not None:
            return torch.arange(self.length, device=self.device) - self.starts
        if self.real is None:
            return None
        return (self.real.cumsum(1)[:, self.start :] - 1).clamp(min=0)

    def mask(
        self,
        window: int | None = None,
        sinks: int = 0,
        layout: KeyLayout = WHOLE,
        keys_per_token: int = 1,
        prefix: int = 0,
    ) -> AttentionMask:
        """Return what the new tokens see of keys that are laid out so, behind those of a prefix."""
        key = (window, sinks, keys_per_token, layout, prefix)
        if key not in self._masks:
            if keys_per_token == 2:
                single = self.mask(window, sinks, layout)
                mask = single.for_two_keys_per_token(self.length, self.device)
            else:
                mask = self._of_tokens(window, sinks, layout)
            if prefix:
                mask = mask.behind_prefix(prefix, self.length, self.device)
            self._masks[key] = mask
        return self._masks[key]

    def _of_tokens(self, window: int | None, sinks: int, layout: KeyLayout) -> AttentionMask:
        """Return what the new tokens see of one key a token."""
        if window is None or self.start + self.length <= window:
            return self._full()
        if layout.ring is not None:
            return self._ring(layout, layout.ring)
        return self._windowed(window, sinks, layout)

    def _full(self) -> AttentionMask:
        """Return the mask of attention without a window."""
        if self.starts is None:
            return causal_mask(self.start, self.length, self.real, self.device)
        whole = QueryBlock(0, self.length, 0, 0)
        return AttentionMask(causal=False, mask=self._near(whole, None, 0)[:, None])

    def _ring(self, layout: KeyLayout, size: int) -> AttentionMask:
        """Return what one query sees of a ring, whose sinks are older than all else in it.

        All keys are in its window or sinks, but for padding.
        """
        starts, real = self.row_starts, self.real
        if starts is None or real is None:
            return AttentionMask(causal=False)
        query = self.start
        places = torch.arange(min(size, query + 1), device=self.device)
        columns = query - (query - places) % size  # (K,)
        # A padded query has to see something: itself.
        near = real[:, columns] | (columns == query)  # (B, K)
        numbers = torch.arange(layout.sinks - 1, -1, -1, device=self.device)
        sinks = starts[:, None] + numbers <= query - size  # (B, n)
        mask = torch.cat((sinks, near), 1)
        return AttentionMask(causal=False, mask=mask[:, None, None])  # (B, 1, 1, n + K)

    def _windowed(self, window: int, sinks: int, layout: KeyLayout) -> AttentionMask:
        blocks = query_blocks(self.start, self.length, window, sinks)
        return AttentionMask(
            causal=False,
            blocks=tuple(self._block(block, window, sinks, layout) for block in blocks),
        )

    def _block(self, block: QueryBlock, window: int, sinks: int, layout: KeyLayout) -> WindowBlock:
        offset = layout.sinks - layout.first  # from a token's column to its key's place
        queries = slice(block.start - self.start, block.stop - self.start)
        keys = slice(block.first + offset, block.stop + offset)
        plain = self.real is None and self.starts is None
        if plain and block.start == 0 and block.stop <= window:
            return WindowBlock(queries, keys, None, AttentionMask(causal=True))
        mask = self._near(block, window, sinks)
        if not block.sinks:
            return WindowBlock(queries, keys, None, AttentionMask(causal=False, mask=mask[:, None]))
        places, sees_sinks = self._sinks(block, layout)
        mask = torch.cat(
            (sees_sinks.expand(len(mask), -1, -1), mask.expand(len(sees_sinks), -1, -1)), 2
        )
        return WindowBlock(queries, keys, places, AttentionMask(causal=False, mask=mask[:, None]))

    def _sinks(self, block: QueryBlock, layout: KeyLayout) -> tuple[Tensor, Tensor]:
        """Return the places of a block's sinks among the keys, (B or 1, n), and who sees them.

        That is (B or 1, Q, n). The sinks of a document that begins inside the block are among its
        other keys.
        """
        numbers = torch.arange(block.sinks, device=self.device)  # (n,)
        starts = self._starts(block.start, block.stop)  # (B or 1, Q)
        columns = starts[:, :1] + numbers  # (B or 1, n)
        sees = (starts == starts[:, :1])[:, :, None] & (columns < block.first)[:, None]
        if layout.sinks:
            places = (layout.sinks - 1 - numbers)[None]
        else:
            places = columns.clamp(max=block.stop - 1)
        return places, sees

    def _starts(self, start: int, stop: int) -> Tensor:
        """Return where the texts of the tokens from `start` to `stop` begin, (B or 1, Q)."""
        if self.starts is not None:
            return self.starts[:, start - self.start : stop - self.start]
        rows = self.row_starts
        if rows is None:
            return torch.zeros(1, stop - start, dtype=torch.long, device=self.device)
        return rows[:, None].expand(-1, stop - start)

    def _near(self, block: QueryBlock, window: int | None, sinks: int) -> Tensor:
        """Return which queries of a block see which of its keys, sinks before them aside.

        That is (B or 1, Q, K).
        """
        keys = torch.arange(block.first, block.stop, device=self.device)  # (K,)
        distance = keys[block.start - block.first :, None] - keys  # (Q, K)
        sees = (distance >= 0)[None]
        starts = self._starts(block.start, block.stop)[:, :, None]  # (B or 1, Q, 1)
        if self.starts is not None:
            sees = sees & (keys >= starts)
        if window is not None:
            sees = sees & ((distance < window) | (keys - starts < sinks))
        if self.real is not None:
            # A padded query has to see something, or its softmax is 0 / 0: itself.
            sees = (sees & self.real[:, None, block.first : block.stop]) | (distance == 0)
        return sees


def causal_mask(
    start: int, length: int, mask: Tensor | None, device: torch.device
) -> AttentionMask:
    """Return what `length` new tokens after `start` cached ones see.

    `mask` (B, S) is False on left padding.
    """
    if mask is None and (start == 0 or length == 1):
        return AttentionMask(causal=length > 1)
    sees = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)  # (T, S)
    if mask is None:
        return AttentionMask(causal=False, mask=sees[None, None])
    # A padded query has to see something, or its softmax is 0 / 0: itself.
    itself = sees & ~sees.tril(-1 + start)  # (T, S)
    return AttentionMask(causal=False, mask=((sees & mask[:, None]) | itself)[:, None])
