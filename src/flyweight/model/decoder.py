"""The one transformer: embedding, a loop over the visit list, final norm, head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig, Rope
from flyweight.errors import RequestError
from flyweight.model import linear, norm
from flyweight.model.attention import reach
from flyweight.model.block import Block
from flyweight.model.cache import Cache, KVCache
from flyweight.model.embedding import Embedding
from flyweight.model.init import initialise
from flyweight.model.names import check_patterns
from flyweight.model.position import RotaryTables, Rotation
from flyweight.model.precision import autocast_dtype
from flyweight.model.schedule import visits


class Head(nn.Module):
    """An output matrix of its own, for models whose head is not their embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size
        self.linear = linear.named(config, "head.linear", config.dim, config.vocab_size)


class Decoder(nn.Module):
    """A decoder-only language model, exactly as its config describes it.

    `seed` draws the initial weights without touching torch's global generator. Raises RequestError for a config that leaves
    vocab_size or context open, or whose `linears` name no layer.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        try:
            config = config.resolved()
        except ValueError as error:
            raise RequestError(f"model: {error}") from error
        check_patterns(config)
        assert config.attention.head_dim is not None
        self.config, self.softcap = config, config.head.softcap
        self.visits = visits(config)
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, f"blocks.{layer}") for layer in range(config.layers))
        self.norm = norm.build(config.norm, config.dim)
        self.head = None if config.embedding.tied else Head(config)
        self.recompute: Callable[..., Tensor] | None = None
        """Calls a block in training so that backward computes it again: `torch.utils.checkpoint.checkpoint` or its like."""
        self._rotary = RotaryTables(config.position, config.attention.head_dim) if isinstance(config.position, Rope) else None
        initialise(self, config, seed)

    def hidden(self, tokens: Tensor, cache: Cache | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the final-normed hidden states (B, T, dim) of tokens (B, T), which follow those in the cache.

        `mask` (B, S) is False on left padding, over cached and new positions; padding is never seen and has no position.
        """
        start = 0 if cache is None else cache.length
        self._check(tokens, start, cache, mask)
        length = tokens.shape[1]
        positions = None if mask is None else (mask.cumsum(1)[:, start:] - 1).clamp(min=0)  # (B, T)
        marked = self.embedding.marked(tokens, None if mask is None else mask[:, start:])  # (B, T)
        previous = None
        if self.embedding.bigram is not None:
            previous = self.embedding.previous(marked, None if cache is None else cache.last)  # (B, T)
        x = self.embedding(tokens, positions, previous, start)  # (B, T, dim)
        rotation = self._rotation(x, positions, start, length)
        seen = reach(start, length, mask, x.device)
        for index, visit in enumerate(self.visits):
            block, slot = self.blocks[visit.layer], None if cache is None else cache.slot(index)
            if self.recompute is not None and self.training and torch.is_grad_enabled():
                x = self.recompute(block, x, seen, rotation, slot)
            else:
                x = block(x, seen, rotation, slot)
        if cache is not None:
            cache.advance(length, marked[:, -1:])
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: Cache | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, vocab_size) of the token after each position; arguments as `hidden`."""
        return self.logits(self.hidden(tokens, cache, mask))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the (softcapped) logits of hidden states: (..., dim) -> (..., vocab_size)."""
        logits = self.embedding.tokens(hidden) if self.head is None else self.head.linear(hidden)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def head_weight(self) -> Tensor:
        """Return the output matrix (vocab_size, dim), differentiable where it is trainable."""
        return (self.embedding.tokens if self.head is None else self.head.linear).dense()

    def new_cache(self, batch: int, length: int) -> KVCache:
        """Return an empty cache for `batch` rows of up to `length` tokens, on the model's device and in its dtype."""
        options = self.config.attention
        assert options.kv_heads and options.head_dim
        return KVCache(len(self.visits), batch, options.kv_heads, length, options.head_dim, self.device, self.dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The float type of the weights; packed layers unpack into it."""
        return self.norm.weight.dtype

    def _rotation(self, x: Tensor, positions: Tensor | None, start: int, length: int) -> Rotation | None:
        if self._rotary is None:
            return None
        return self._rotary.rotation(x, autocast_dtype(x), positions, start, length)

    def _check(self, tokens: Tensor, start: int, cache: Cache | None, mask: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise RequestError(f"tokens: the shape is {tuple(tokens.shape)}; give a batch of non-empty sequences (B, T)")
        total = start + tokens.shape[1]
        if self.embedding.positions is not None and total > (self.config.context or 0):
            raise RequestError(
                f"context: a sequence of {total} tokens is longer than the {self.config.context} positions that this model has"
                " learned; shorten it"
            )
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (tokens.shape[0], total)):
            raise RequestError(
                f"mask: {mask.dtype} of shape {tuple(mask.shape)}; cached and new tokens need torch.bool of shape"
                f" {(tokens.shape[0], total)}"
            )
        if cache is not None:
            cache.reserve(tokens.shape[1])
