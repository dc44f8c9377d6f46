"""The one transformer: embedding, a loop over the visit list, final norm, head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig, NoSharing, Rope
from flyweight.errors import RequestError
from flyweight.model import kernels, linear, norm
from flyweight.model.adapters import install, reset_adapters
from flyweight.model.attention import asked_kernel
from flyweight.model.block import Block
from flyweight.model.cache import Cache, CacheSlot, KVCache, SlotShape
from flyweight.model.embedding import EmbeddingLayer
from flyweight.model.head import HeadMatrix, head_matrix, rows_and_table
from flyweight.model.init import initialise
from flyweight.model.inputs import check_documents
from flyweight.model.masks import WHOLE, TokenSpan, document_starts
from flyweight.model.mixture import MixtureHead
from flyweight.model.position import Rotary, Rotation
from flyweight.model.precision import autocast_dtype
from flyweight.model.skips import Skips
from flyweight.model.step import fits, step_of
from flyweight.model.thinking import KeysAndValues, PassMemory
from flyweight.spec.adapters import check_adapters, sites
from flyweight.spec.linears import check_patterns, float_name, head_sizes
from flyweight.spec.visits import Visit, mixes_values, stack_size, use_of, visits


class HeadLayer(nn.Module):
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
    for a config that leaves vocab_size or context open, or whose `linears` or `adapters` name no
    layer.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        try:
            config = config.resolved()
        except ValueError as error:
            raise RequestError(f"model: {error}") from error
        check_patterns(config)
        check_adapters(config)
        self.config = config
        self.softcap = config.head.softcap
        self._looped = visits(config)
        self._unlooped = visits(config, looped=False)
        self._float = float_name(config)
        self.visits = self._looped
        self.embedding = EmbeddingLayer(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self._mixes_values = any(mixes_values(config, layer) for layer in range(config.layers))
        self.index: VisitIndex | None = None
        if not isinstance(config.sharing, NoSharing) and config.sharing.index:
            self.index = VisitIndex(config)
        self.skips = Skips(config) if config.skips else None
        self.norm: nn.Module | None = None
        if config.norm.final:
            self.norm = norm.build(config.norm, config.dim)
        self.head: HeadLayer | None = None
        if not config.embedding.tied:
            self.head = HeadLayer(config)
        self.head_bias: nn.Parameter | None = None
        if config.head.bias and config.embedding.tied:
            self.head_bias = nn.Parameter(torch.zeros(config.vocab_size or 0))
        self.recompute: Callable[..., tuple[Tensor, KeysAndValues]] | None = None
        """Calls a block in training so that backward computes it again.

        `torch.utils.checkpoint.checkpoint` or its like.
        """
        self.through: Callable[..., tuple[Tensor, KeysAndValues]] | None = None
        """Runs the blocks in the decoder's place, where somebody gathers what they read."""
        self.watched: Callable[[int, Tensor], None] | None = None
        """Is told each place in the unrolled stack, and the residual stream (B, T, dim) behind it.

        Of several passes the last one counts.
        """
        self.stream: torch.dtype | None = None
        """The dtype of the residual stream, where it is not that of the embedding."""
        self._rotary: Rotary | None = None
        if isinstance(config.position, Rope):
            sizes = head_sizes(config)
            self._rotary = Rotary(config.position, sizes, config.first_position)
        self.mixture: MixtureHead | None = None
        if config.mixture is not None:
            self.mixture = MixtureHead(config.mixture, config.dim, config.vocab_size or 0)
        self.lookback = self._lookback()
        """How many tokens before a new one are needed beside keys and values."""
        initialise(self, config, seed)
        if config.adapters:
            install(self, config)
            reset_adapters(self, sites(config), seed)

    def hidden(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the final-normed hidden states (B, T, dim) of tokens (B, T).

        The tokens follow those in the cache.

        `mask` (B, S) is False on left padding, over cached and new positions; padding is never seen
        and has no position. `documents` (B, T) are the ids of each token's document: a token sees
        its own document alone, as if that stood in a row by itself. Raises RequestError for inputs
        of other shapes, and for documents that are cached or read by a mixture.
        """
        return self._hidden(tokens, cache, mask, documents, None)

    def _hidden(
        self,
        tokens: Tensor,
        cache: Cache | None,
        mask: Tensor | None,
        documents: Tensor | None,
        rows: Tensor | None,
    ) -> Tensor:
        """Return `hidden`; `rows` (B, T, dim or rank) are those of the tokens' table, if read."""
        start = 0 if cache is None else cache.length
        self._check(tokens, start, cache, mask)
        starts = self._document_starts(tokens, cache, documents)
        length = tokens.shape[1]
        span = TokenSpan(start, length, mask, starts, tokens.device)
        if cache is not None:
            cache.reserve(length, span.row_starts)
        new = None if mask is None else mask[:, start:]
        marked = self.embedding.marked(tokens, new)  # (B, T)
        history = self._history(marked, None if cache is None else cache.last)  # (B, S)
        positions = span.positions  # (B, T)
        run = None
        if self.embedding.bigram is not None:
            run = self.embedding.run_of(history, length)  # (B, lookback + T)
        alone = starts is not None
        x = self.embedding(tokens, positions, run, start, alone, rows)  # (B, T, dim)
        if self.stream is not None:
            x = x.to(self.stream)
        rotation = self._rotation(x, positions, start, length)
        stepped = self._stepped(x, span, rotation, cache)
        x = self._run(x, span, rotation, cache) if stepped is None else stepped
        if cache is not None:
            cache.advance(length, history[:, -self.lookback :] if self.lookback else None)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.mixture is None else self.mixture.extended(x, history)

    def _lookback(self) -> int:
        mixture = 0 if self.mixture is None else self.mixture.lookback(self.config.context or 0)
        return max(self.embedding.lookback, mixture)

    def _history(self, marked: Tensor, before: Tensor | None) -> Tensor:
        """Return marked tokens (B, T) behind those kept of what was read earlier: (B, S)."""
        if before is None:
            return marked
        return torch.cat((before, marked), 1)

    def _stepped(
        self, x: Tensor, span: TokenSpan, rotation: Rotation | None, cache: Cache | None
    ) -> Tensor | None:
        """Return what all visits make of one new token of each text, x (B, 1, dim).

        None where there is no compiled step: torch has to go through them.
        """
        engine = kernels.active()
        if engine is None or span.length != 1 or not isinstance(cache, KVCache):
            return None
        if self.training or self.through is not None:
            return None
        placed = self.skips is not None or self.index is not None
        if placed and self.visits is not self._looped:
            return None
        if asked_kernel() != "auto" or not fits(x, cache):
            return None
        index = None if self.index is None else self.index.weight
        step = step_of(engine, self, self._visited, self.skips, index)
        return None if step is None else step(x, cache, rotation, span.row_starts)

    def _visited(self) -> list[Block]:
        """Return the blocks in the order of the visits."""
        blocks = [self.blocks[visit.layer] for visit in self.visits]
        return [block for block in blocks if isinstance(block, Block)]

    def _run(
        self, embedded: Tensor, span: TokenSpan, rotation: Rotation | None, cache: Cache | None
    ) -> Tensor:
        """Go through the visits.

        Every pass leaves a memory to the next: (B, T, dim) -> (B, T, dim).
        """
        x = embedded
        index = 0
        memory = PassMemory(self.config)
        first_values: Tensor | None = None
        written = dict[int, Tensor]()
        for visit in self.visits:
            block = self.blocks[visit.layer]
            assert isinstance(block, Block)
            if visit.stack_index == 0 and memory.restarts:
                x = embedded
            if self.skips is not None:
                x = self.skips.read(x, visit, embedded, written)
            if self.index is not None:
                x = x + self.index.weight[visit.stack_index]
            use = use_of(self.config, visit)
            if not visit.keys_per_token:
                memory.store(visit, block, block.project_kv(x, rotation, use))
                continue
            slot: CacheSlot | None = None
            layout = WHOLE
            if cache is not None:
                slot = cache.slot(index)
                layout = slot.layout(span.length)
                index += 1
            attention = block.attention
            mask = span.mask(
                attention.window,
                attention.sinks,
                layout,
                visit.keys_per_token,
                self.config.first_position,
            )
            memory_kv = memory.kv[visit.stack_index] if visit.keys_per_token == 2 else None
            x, kv = self._call(block, x, mask, rotation, slot, memory_kv, use, first_values)
            memory.store(visit, block, kv)
            if self.skips is not None:
                self.skips.note(x, visit, written)
            if self._mixes_values and first_values is None:
                first_values = kv[1]
            if self.watched is not None and visit.pass_ == self.visits[-1].pass_:
                self.watched(visit.stack_index, x)
        return x

    def _call(self, block: Block, *reads: object) -> tuple[Tensor, KeysAndValues]:
        if self.through is not None:
            return self.through(block, *reads)
        if self.recompute is not None and self.training and torch.is_grad_enabled():
            return self.recompute(block, *reads)
        return block(*reads)

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the logits (B, T, vocab_size) of the token after each position.

        Arguments as `hidden`.
        """
        return self.logits(self.hidden(tokens, cache, mask, documents))

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
        """Return the logits of a mixture's network alone.

        `hidden` are hidden states with their evidence, (N, dim + E).
        """
        return self._network_logits(hidden[:, : self.config.dim].to(self.dtype))

    def _network_logits(self, hidden: Tensor) -> Tensor:
        if self.head is None:
            logits = self.embedding.tokens(self.embedding.reduced(hidden))
        else:
            logits = self.head.linear(hidden)
        if self.head_bias is not None:
            logits = logits + self.head_bias.to(logits.dtype)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def output(self, hidden: Tensor) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return the head in parts: what it reads (..., K), its matrix (vocab_size, K), its bias.

        All are differentiable; a packed matrix is its layer, which nobody has to unpack.

        Logits before the softcap are their product and sum; K is dim, or the rank of a factorised
        embedding. Raises RequestError for a mixture, whose logits are not such a product.
        """
        self._refuse_mixture()
        if self.head is not None:
            return hidden, head_matrix(self.head.linear), self.head.linear.bias
        return self.embedding.reduced(hidden), head_matrix(self.embedding.tokens), self.head_bias

    def output_of(
        self, tokens: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return `output(hidden(tokens, documents=documents))`, for a loss that is learned from.

        A table that is both embedding and head gets its gradient in one piece: that of its rows is
        added to that of the head, in place. So the matrix may be read by one function alone, whose
        gradient for it is a tensor that nobody else holds. Raises RequestError as both do.
        """
        self._refuse_mixture()
        table = self.embedding.trained_table() if self.head is None else None
        if table is None:
            return self.output(self.hidden(tokens, documents=documents))
        self._check(tokens, 0, None, None)
        rows, matrix = rows_and_table(table, tokens)
        hidden = self._hidden(tokens, None, None, documents, rows)
        return self.embedding.reduced(hidden), matrix, self.head_bias

    def _refuse_mixture(self) -> None:
        if self.mixture is not None:
            raise RequestError(
                "model: a mixture is not trained any further; train its network, then mix it again"
            )

    def loop(self, on: bool) -> None:
        """Switch the loop over a span of layers on or off; only training switches it off."""
        self.visits = self._looped if on else self._unlooped

    def new_cache(self, batch: int, length: int) -> KVCache:
        """Return an empty cache for `batch` rows of up to `length` tokens.

        It is on the model's device and in its dtype.
        """
        shapes = [self._slot_shape(visit) for visit in self.visits if visit.keys_per_token]
        return KVCache(shapes, batch, length, self.device, self.dtype)

    def _slot_shape(self, visit: Visit) -> SlotShape:
        block = self.blocks[visit.layer]
        assert isinstance(block, Block)
        attention = block.attention
        width = visit.keys_per_token * attention.head_dim
        return SlotShape(attention.kv_heads, width, attention.window, attention.sinks)

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

    def _document_starts(
        self, tokens: Tensor, cache: Cache | None, documents: Tensor | None
    ) -> Tensor | None:
        """Return the column where each token's document begins, (B, T); None without documents."""
        if documents is None:
            return None
        check_documents(tokens, documents)
        if cache is not None:
            raise RequestError("documents: a cache holds one text a row; read documents without it")
        if self.mixture is not None:
            raise RequestError(
                "documents: the counts and the pointer of a mixture look across documents; read "
                "each document in a row of its own"
            )
        return document_starts(documents)
