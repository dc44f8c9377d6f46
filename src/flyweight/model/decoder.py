"""The one transformer: embedding, a loop over the visit list, final norm, head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig, NoSharing, Rope
from flyweight.errors import RequestError
from flyweight.model import linear, norm
from flyweight.model.attention import Reach, reach
from flyweight.model.block import Block
from flyweight.model.cache import Cache, KVCache
from flyweight.model.embedding import Embedding
from flyweight.model.init import initialise
from flyweight.model.mixture import MixtureHead
from flyweight.model.position import Rotary, Rotation
from flyweight.model.precision import autocast_dtype
from flyweight.model.thinking import KeysAndValues, Recollection
from flyweight.spec.linears import check_patterns, float_name, head_sizes
from flyweight.spec.visits import stack_size, visits


class Head(nn.Module):
    """An output matrix of its own, for models whose head is not their embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size
        self.linear = linear.build_linear(
            config, "head.linear", config.dim, config.vocab_size, config.head.bias
        )


class VisitIndex(nn.Module):
    """A learned vector for each place in the unrolled stack of layers, (places, dim)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(stack_size(config), config.dim))


class Decoder(nn.Module):
    """A decoder-only language model, exactly as its config describes it.

    `seed` draws the initial weights without touching torch's global generator. Raises RequestError
    for a config that leaves vocab_size or context open, or whose `linears` name no layer.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        try:
            config = config.resolved()
        except ValueError as error:
            raise RequestError(f"model: {error}") from error
        check_patterns(config)
        self.config, self.softcap = config, config.head.softcap
        self._looped, self._unlooped, self._float = (
            visits(config),
            visits(config, looped=False),
            float_name(config),
        )
        self.visits = self._looped
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(
            Block(config.layer(layer), f"blocks.{layer}") for layer in range(config.layers)
        )
        self.index = (
            VisitIndex(config)
            if not isinstance(config.sharing, NoSharing) and config.sharing.index
            else None
        )
        self.norm = norm.build(config.norm, config.dim) if config.norm.final else None
        self.head = None if config.embedding.tied else Head(config)
        tied_bias = config.head.bias and config.embedding.tied
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size or 0)) if tied_bias else None
        self.recompute: Callable[..., tuple[Tensor, KeysAndValues]] | None = None
        """Calls a block in training so that backward computes it again: `torch.utils.checkpoint.checkpoint` or its like."""
        self._rotary = (
            Rotary(config.position, head_sizes(config))
            if isinstance(config.position, Rope)
            else None
        )
        self.mixture = None
        if config.mixture is not None:
            self.mixture = MixtureHead(config.mixture, config.dim, config.vocab_size or 0)
        self.reach = self._reach()
        """How many tokens before a new one are needed beside keys and values."""
        initialise(self, config, seed)

    def hidden(
        self, tokens: Tensor, cache: Cache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the final-normed hidden states (B, T, dim) of tokens (B, T), which follow those in the cache.

        `mask` (B, S) is False on left padding, over cached and new positions; padding is never seen
        and has no position.
        """
        start = 0 if cache is None else cache.length
        self._check(tokens, start, cache, mask)
        length = tokens.shape[1]
        positions = None if mask is None else (mask.cumsum(1)[:, start:] - 1).clamp(min=0)  # (B, T)
        marked = self.embedding.marked(tokens, None if mask is None else mask[:, start:])  # (B, T)
        history = self._history(marked, None if cache is None else cache.last)  # (B, S)
        run = None
        if self.embedding.bigram is not None:
            run = self.embedding.run_of(history, length)  # (B, reach + T)
        x = self.embedding(tokens, positions, run, start)  # (B, T, dim)
        rotation = self._rotation(x, positions, start, length)
        seen = reach(start, length, mask, x.device)
        x = self._run(x, seen, rotation, cache)
        if cache is not None:
            cache.advance(length, history[:, -self.reach :] if self.reach else None)
        x = x if self.norm is None else self.norm(x)
        return x if self.mixture is None else self.mixture.extended(x, history)

    def _reach(self) -> int:
        mixture = 0 if self.mixture is None else self.mixture.reach(self.config.context or 0)
        return max(self.embedding.reach, mixture)

    def _history(self, marked: Tensor, before: Tensor | None) -> Tensor:
        """Return marked tokens (B, T) behind those that were read earlier, as many as are kept: (B, S)."""
        return marked if before is None else torch.cat((before, marked), 1)

    def _run(
        self, embedded: Tensor, seen: Reach, rotation: Rotation | None, cache: Cache | None
    ) -> Tensor:
        """Go through the visits.

        Every pass leaves a memory to the next: (B, T, dim) -> (B, T, dim).
        """
        x, slot, memory = embedded, 0, Recollection(self.config)
        doubled = seen.doubled(embedded.shape[1], embedded.device) if memory.thinks else seen
        for visit in self.visits:
            block = self.blocks[visit.layer]
            assert isinstance(block, Block)
            x = embedded if visit.place == 0 and memory.restarts else x
            x = x if self.index is None else x + self.index.weight[visit.place]
            if not visit.keys:
                memory.keep(visit, block, block.write(x, rotation))
                continue
            held = None if cache is None else cache.slot(slot)
            slot += 1
            if visit.keys == 2:
                x, own = self._call(block, x, doubled, rotation, held, memory.known[visit.place])
            else:
                x, own = self._call(block, x, seen, rotation, held, None)
            memory.keep(visit, block, own)
        return x

    def _call(self, block: Block, *reads: Any) -> tuple[Tensor, KeysAndValues]:
        if self.recompute is not None and self.training and torch.is_grad_enabled():
            return self.recompute(block, *reads)
        return block(*reads)

    def forward(
        self, tokens: Tensor, cache: Cache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits (B, T, vocab_size) of the token after each position.

        Arguments as `hidden`.
        """
        return self.logits(self.hidden(tokens, cache, mask))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the (softcapped) logits of hidden states: (..., dim) -> (..., vocab_size).

        Of a mixture they are log-probabilities, of hidden states with their evidence.
        """
        if self.mixture is None:
            return self._network_logits(hidden)
        flat = hidden.flatten(0, -2)  # (N, dim + E)
        mixed = self.mixture.log_probabilities(flat, self.network_logits(flat))
        return mixed.unflatten(0, hidden.shape[:-1])

    def network_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of a mixture's network alone, of hidden states with their evidence (N, dim + E)."""
        return self._network_logits(hidden[:, : self.config.dim].to(self.dtype))

    def _network_logits(self, hidden: Tensor) -> Tensor:
        logits = (
            self.embedding.tokens(self.embedding.reduced(hidden))
            if self.head is None
            else self.head.linear(hidden)
        )
        logits = logits if self.head_bias is None else logits + self.head_bias.to(logits.dtype)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def output(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the head in parts, differentiable: what it reads of `hidden` (..., K), its matrix (vocab_size, K), its bias.

        Logits before the softcap are their product and sum; K is dim, or the rank of a factorised
        embedding. Raises RequestError for a mixture, whose logits are no such product.
        """
        if self.mixture is not None:
            raise RequestError(
                "model: a mixture is not trained any further; train its network, then mix it again"
            )
        if self.head is not None:
            return hidden, self.head.linear.dense(), self.head.linear.bias
        return self.embedding.reduced(hidden), self.embedding.tokens.dense(), self.head_bias

    def loop(self, on: bool) -> None:
        """Switch the loop over a span of layers on or off, which only training does: a finished model has it on."""
        self.visits = self._looped if on else self._unlooped

    def new_cache(self, batch: int, length: int) -> KVCache:
        """Return an empty cache for `batch` rows of up to `length` tokens, on the model's device and in its dtype."""
        widths, heads = [], []
        for visit in self.visits:
            if visit.keys:
                attention = self.config.layer(visit.layer).attention
                assert attention.kv_heads and attention.head_dim
                widths.append(visit.keys * attention.head_dim)
                heads.append(attention.kv_heads)
        return KVCache(widths, batch, heads, length, self.device, self.dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.get_parameter(self._float).device

    @property
    def dtype(self) -> torch.dtype:
        """The float type of the weights; packed layers unpack into it."""
        return self.get_parameter(self._float).dtype

    def _rotation(
        self, x: Tensor, positions: Tensor | None, start: int, length: int
    ) -> Rotation | None:
        if self._rotary is None:
            return None
        return self._rotary.rotation(x, autocast_dtype(x), positions, start, length)

    def _check(self, tokens: Tensor, start: int, cache: Cache | None, mask: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise RequestError(
                f"tokens: the shape is {tuple(tokens.shape)}; give a batch of non-empty "
                f"sequences (B, T)"
            )
        total = start + tokens.shape[1]
        if self.embedding.positions is not None and total > (self.config.context or 0):
            raise RequestError(
                f"context: a sequence of {total} tokens is longer than the {self.config.context} "
                f"positions that this model has"
                " learned; shorten it"
            )
        if mask is not None and (
            mask.dtype != torch.bool or tuple(mask.shape) != (tokens.shape[0], total)
        ):
            raise RequestError(
                f"mask: {mask.dtype} of shape {tuple(mask.shape)}; cached and new tokens need "
                f"torch.bool of shape"
                f" {(tokens.shape[0], total)}"
            )
        if cache is not None:
            cache.reserve(tokens.shape[1])
