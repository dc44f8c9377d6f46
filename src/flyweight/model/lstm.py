"""The recurrent baseline: embedding, LSTM layers, head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.config.schema import LstmConfig
from flyweight.errors import RequestError
from flyweight.model import linear
from flyweight.model.dropout import dropout
from flyweight.model.head import HeadMatrix, head_matrix
from flyweight.model.init import initialise_fan_in
from flyweight.model.inputs import check
from flyweight.model.output import OutputLayer
from flyweight.model.precision import autocast_dtype, without_autocast
from flyweight.model.recurrent_cache import StateCache
from flyweight.spec.linears import check_patterns


class TokenEmbedding(nn.Module):
    """A row per token."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        assert config.vocab_size
        self.tokens = linear.build_linear(config, "embedding.tokens", config.dim, config.vocab_size)


class LstmLayer(nn.Module):
    """One LSTM layer.

    Its gates are input, forget, candidate and output, in torch's order, with one bias for all.
    """

    def __init__(self, config: LstmConfig, name: str, width: int) -> None:
        super().__init__()
        assert config.hidden
        self.input = linear.build_linear(
            config, f"{name}.input", width, 4 * config.hidden, bias=True
        )
        self.recurrent = linear.build_linear(
            config, f"{name}.recurrent", config.hidden, 4 * config.hidden
        )
        self.fuses = True
        """Whether torch's own LSTM may compute it, which calls neither matrix by itself."""

    def forward(
        self, x: Tensor, h: Tensor, c: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs (B, T, hidden) of x (B, T, width), and the state after them.

        h and c (B, hidden) are the state before x. Where `mask` (B, T) is False, the state
        does not change.
        """
        dense = self.input.kind.plain and self.recurrent.kind.plain
        if dense and self.fuses and mask is None and not x.is_meta:
            return self._fused(x, h, c)
        return self.unrolled(x, h, c, mask)

    def unrolled(
        self, x: Tensor, h: Tensor, c: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` returns, computed step by step.

        Padding and packed weights need it, and so does the count of products.
        """
        gates, outputs = self.input(x), list[Tensor]()  # (B, T, 4 * hidden)
        for step in range(x.shape[1]):
            i, f, g, o = (gates[:, step] + self.recurrent(h)).chunk(4, -1)  # (B, hidden) each
            new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            new_h = o.sigmoid() * new_c.tanh()
            if mask is not None:
                real = mask[:, step, None]  # (B, 1)
                new_h, new_c = torch.where(real, new_h, h), torch.where(real, new_c, c)
            h, c = new_h, new_c
            outputs.append(h)
        return torch.stack(outputs, 1), h, c

    def _fused(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.input.bias
        assert bias is not None
        # Autocast leaves open what it does with states and weights of different dtypes, so all are
        # cast here.
        dtype = autocast_dtype(x)
        weights = [
            weight.to(dtype)
            for weight in (self.input.dense(), self.recurrent.dense(), bias, torch.zeros_like(bias))
        ]
        with without_autocast(x):
            state = (h[None].to(dtype), c[None].to(dtype))
            y, h, c = torch.lstm(
                x.to(dtype), state, weights, True, 1, 0.0, self.training, False, True
            )
        return y, h[0], c[0]


class LSTM(nn.Module):
    """An LSTM language model, exactly as its config describes it.

    Its state is zero where a text or a window begins.

    `seed` draws the initial weights without touching torch's global generator. Raises RequestError
    for a config that leaves vocab_size or context open, or whose `linears` name no layer.
    """

    def __init__(self, config: LstmConfig, seed: int = 0) -> None:
        super().__init__()
        try:
            config = config.resolved()
        except ValueError as error:
            raise RequestError(f"model: {error}") from error
        check_patterns(config)
        assert config.hidden
        self.config, self.size = config, config.hidden
        self.softcap: float | None = None
        self.embedding = TokenEmbedding(config)
        widths = [config.dim, *[config.hidden] * (config.layers - 1)]
        self.blocks = nn.ModuleList(
            LstmLayer(config, f"blocks.{layer}", width) for layer, width in enumerate(widths)
        )
        self.dropout = dropout(config.dropout)
        self.head = None if config.tied else OutputLayer(config, config.hidden)
        initialise_fan_in(self, config, seed)
        self._open_forget_gates(config.forget_bias)

    @torch.no_grad()
    def _open_forget_gates(self, bias: float) -> None:
        for layer in self._layers():
            assert layer.input.bias is not None
            layer.input.bias[self.size : 2 * self.size].fill_(bias)

    def hidden(
        self,
        tokens: Tensor,
        cache: StateCache | None = None,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the last layer's outputs (B, T, hidden) for tokens (B, T).

        The tokens follow those in the cache.

        `mask` (B, S) is False on left padding, over cached and new positions; padding leaves the
        state as it is. Raises RequestError for documents.
        """
        if documents is not None:
            raise RequestError(
                "documents: an LSTM carries its state across documents in a window; read each in "
                "a row of its own"
            )
        start = 0 if cache is None else cache.length
        check(tokens, start, mask)
        if cache is not None:
            cache.reserve(tokens.shape[1])
        x = self._dropped(self.embedding.tokens.rows(tokens))  # (B, T, dim)
        h, c = (
            self._zero_state(tokens.shape[0], x.dtype) if cache is None else cache.state
        )  # (B, layers, hidden) each
        mask_of_chunk = None if mask is None else mask[:, start:]
        ends = []
        for index, layer in enumerate(self._layers()):
            x, *end = layer(x, h[:, index], c[:, index], mask_of_chunk)
            x = self._dropped(x)
            ends.append(end)
        if cache is not None:
            cache.advance(
                tokens.shape[1], *(torch.stack(states, 1) for states in zip(*ends, strict=True))
            )
        return x

    def forward(
        self, tokens: Tensor, cache: StateCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits (B, T, vocab_size) of the token after each position.

        Arguments as `hidden`.
        """
        return self.logits(self.hidden(tokens, cache, mask))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states: (..., hidden) -> (..., vocab_size)."""
        return self._table()(hidden)

    def output(self, hidden: Tensor) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return the head in parts, differentiable: what it reads, its matrix, and no bias.

        The parts have the shapes (..., width) and (vocab_size, width); a packed matrix is its
        layer.
        """
        return hidden, head_matrix(self._table()), None

    def output_of(
        self, tokens: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return `output(hidden(tokens, documents=documents))`."""
        return self.output(self.hidden(tokens, documents=documents))

    def new_cache(self, batch: int, length: int) -> StateCache:
        """Return an empty cache for `batch` rows of up to `length` tokens.

        It keeps one state a row, however many tokens there are.
        """
        return StateCache(length, *self._zero_state(batch, self.dtype))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._bias().device

    @property
    def dtype(self) -> torch.dtype:
        """The float type of the weights; packed layers unpack into it."""
        return self._bias().dtype

    def _layers(self) -> list[LstmLayer]:
        return [layer for layer in self.blocks if isinstance(layer, LstmLayer)]

    def _bias(self) -> Tensor:
        bias = self._layers()[0].input.bias
        assert bias is not None
        return bias

    def _table(self) -> linear.LinearLayer:
        return self.embedding.tokens if self.head is None else self.head.linear

    def _zero_state(self, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        shape = (batch, len(self.blocks), self.size)
        return torch.zeros(shape, device=self.device, dtype=dtype), torch.zeros(
            shape, device=self.device, dtype=dtype
        )

    def _dropped(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)
