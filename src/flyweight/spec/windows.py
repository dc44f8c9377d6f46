"""Which queries of a sliding window are computed together, and with which keys; no torch.

A window of 128 with 4 sinks, 200 tokens, blocks of 64 queries:

queries    0 ..  63    keys  0 ..  63
queries   64 .. 127    keys  0 .. 127
queries  128 .. 191    keys  1 .. 191, and the first of the sinks
queries  192 .. 199    keys 65 .. 199, and the sinks

A query needs the `window` keys up to its own; a block needs those of all its queries. So a token
costs at most window + sinks + QUERIES - 1 keys, however long the text is.
"""

from __future__ import annotations

from typing import NamedTuple

from flyweight.config.layers import Attention

QUERIES = 64
"""Queries that are computed together: enough for a fast product, few beside a usual window."""


class QueryBlock(NamedTuple):
    """Queries `start` up to `stop`, keys `first` up to `stop`, and `sinks` keys before them.

    All are counted in tokens from the beginning of the text. Sinks that lie among the keys from
    `first` on are not counted.
    """

    start: int
    stop: int
    first: int
    sinks: int


def query_blocks(start: int, length: int, window: int, sinks: int) -> list[QueryBlock]:
    """Return the blocks of `length` queries that follow `start` tokens."""
    blocks = []
    for block_start in range(start, start + length, QUERIES):
        stop = min(block_start + QUERIES, start + length)
        first = max(0, block_start - window + 1)
        blocks.append(QueryBlock(block_start, stop, first, min(sinks, first)))
    return blocks


def scores(attention: Attention, length: int) -> int:
    """Return how many scores one head computes over a text of `length` tokens.

    Without a window, and up to its length, that is every pair of tokens.
    """
    window, sinks = attention.window, attention.sinks
    if window is None or length <= window:
        return length**2
    return sum(
        (block.stop - block.start) * (block.stop - block.first + block.sinks)
        for block in query_blocks(0, length, window, sinks)
    )


def cached_tokens(attention: Attention, length: int) -> int:
    """Return the tokens whose keys a cache for `length` tokens has room for."""
    if attention.window is None:
        return length
    return min(length, attention.window) + attention.sinks
