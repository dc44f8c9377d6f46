"""From token ids to vectors: a row per token, a row per pair of tokens, a row per position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.config import schema
from flyweight.model import linear
from flyweight.model.dropout import dropout
from flyweight.model.position import LearnedPositions, Sinusoids
from flyweight.spec.linears import bigram_lookback, bigram_rows


class EmbeddingLayer(nn.Module):
    """Token rows, expanded where the table is narrower than the model.

    The config may add positions and a bigram table.
    """

    def __init__(self, config: schema.ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size and config.context
        self.vocab_size = config.vocab_size
        self.dropout = dropout(config.dropout.embedding)
        rank, position = config.embedding.rank, config.position
        self.tokens = linear.build_linear(
            config, "embedding.tokens", rank or config.dim, config.vocab_size
        )
        self.expand = (
            linear.build_linear(config, "embedding.expand", rank, config.dim) if rank else None
        )
        self.positions = (
            LearnedPositions(config.context, config.dim, config.first_position)
            if isinstance(position, schema.Learned)
            else None
        )
        self._sinusoids = (
            Sinusoids(position, config.dim, config.first_position)
            if isinstance(position, schema.Sinusoidal)
            else None
        )
        self.pairs, self.lookback = config.embedding.bigram, bigram_lookback(config)
        count = bigram_rows(config)
        self.bigram = (
            linear.build_linear(config, "embedding.bigram", config.dim, count) if count else None
        )

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        run: Tensor | None,
        start: int,
        alone: bool = False,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the vectors of tokens (B, T) after `start` others: (B, T, dim).

        `run` is what `run_of` made of them. `alone`: n-grams end where positions begin. `rows` are
        the tokens' rows of the table (B, T, dim or rank), where somebody has read them already.
        """
        x = self.tokens.rows(tokens) if rows is None else rows  # (B, T, dim or rank)
        if self.expand is not None:
            x = self.expand(x)  # (B, T, dim)
        if self.bigram is not None and run is not None:
            rows = self.bigram_index(run, positions if alone else None)
            x = x + self.bigram.rows(rows).sum(0)
        if self.positions is not None:
            x = x + self.positions(positions, start, tokens.shape[1])
        if self._sinusoids is not None:
            x = x + self._sinusoids.rows(x, positions, start, tokens.shape[1])
        return x if self.dropout is None else self.dropout(x)

    def trained_table(self) -> Tensor | None:
        """Return the table of tokens (V, dim or rank) where it is dense and learns, or None."""
        if not (isinstance(self.tokens, linear.Linear) and torch.is_grad_enabled()):
            return None
        return self.tokens.weight if self.tokens.weight.requires_grad else None

    def reduced(self, hidden: Tensor) -> Tensor:
        """Return what a tied head multiplies its table with, (..., dim) -> (..., rank or dim)."""
        return hidden if self.expand is None else hidden @ self.expand.dense().to(hidden.dtype)

    def marked(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return tokens (B, T) with the id of "no token" where `mask` (B, T) is False."""
        return tokens if mask is None else torch.where(mask, tokens, self.vocab_size)

    def run_of(self, history: Tensor, length: int) -> Tensor:
        """Return the last `length` tokens T of a history (B, S) and those that their n-grams need.

        That is (B, lookback + T).

        Where nothing came before stands "no token".
        """
        nothing = torch.full_like(history[:, :1], self.vocab_size).expand(-1, self.lookback)
        return torch.cat((nothing, history), 1)[:, -(self.lookback + length) :]

    def bigram_index(self, run: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the bigram table's rows for the tokens of a run (B, lookback + T): (orders, B, T).

        With `positions` (B, T) nothing stands before position 0.
        """
        length = run.shape[1] - self.lookback
        back = [
            run[:, self.lookback - n : self.lookback - n + length] for n in range(self.lookback + 1)
        ]  # (B, T) each: n tokens ago
        if positions is not None:
            back = [
                torch.where(positions >= n, tokens, self.vocab_size)
                for n, tokens in enumerate(back)
            ]
        if not isinstance(self.pairs, schema.HashedBigram):
            return (back[1] * self.vocab_size + back[0].clamp(max=self.vocab_size - 1))[
                None
            ]  # padding has any row
        # 32-bit multiplicative hashes, mixed, one more token at a time; int64 holds the products of
        # ids below 2^31.
        mixed, rows = (back[0] + 1) * 0x85EBCA6B, []
        for earlier in back[1:]:
            mixed = ((earlier + 1) * 0x9E3779B1 ^ mixed) & 0xFFFFFFFF
            mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
            rows.append((mixed ^ (mixed >> 16)) % self.pairs.buckets)
        return torch.stack(rows)
