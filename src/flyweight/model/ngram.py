"""The linear and MLP next-token models.

They read the embeddings of the last tokens, side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.schema import LinearConfig, MlpConfig
from flyweight.errors import RequestError
from flyweight.model import linear
from flyweight.model.dropout import dropout
from flyweight.model.head import HeadMatrix, head_matrix
from flyweight.model.init import initialise_fan_in
from flyweight.model.inputs import check, check_documents
from flyweight.model.masks import document_starts
from flyweight.model.output import OutputLayer
from flyweight.model.recurrent_cache import StateCache
from flyweight.spec.linears import check_patterns


class PaddedEmbedding(nn.Module):
    """A row per token, and one learned vector for places before which nothing came."""

    def __init__(self, config: LinearConfig | MlpConfig) -> None:
        super().__init__()
        assert config.vocab_size
        self.tokens = linear.build_linear(config, "embedding.tokens", config.dim, config.vocab_size)
        self.padding = nn.Parameter(torch.empty(config.dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors of tokens (B, T), of which -1 is padding: (B, T, dim)."""
        nothing = (tokens < 0).unsqueeze(-1)  # (B, T, 1)
        return torch.where(nothing, self.padding, self.tokens.rows(tokens.clamp(min=0)))


class NGram(nn.Module):
    """A linear or MLP model of the last `history` tokens, exactly as its config describes it.

    Its hidden states are what the head multiplies: the embeddings side by side, oldest first, or
    the last ReLU layer. `seed` draws the initial weights without touching torch's global generator.
    Raises RequestError for a config that leaves vocab_size or context open, or whose `linears` name
    no layer.
    """

    def __init__(self, config: LinearConfig | MlpConfig, seed: int = 0) -> None:
        super().__init__()
        try:
            config = config.resolved()
        except ValueError as error:
            raise RequestError(f"model: {error}") from error
        check_patterns(config)
        assert config.history
        self.config, self.history = config, config.history
        self.softcap: float | None = None
        self.embedding = PaddedEmbedding(config)
        width, layers = self.history * config.dim, list[linear.LinearLayer]()
        self.dropout = dropout(config.dropout if isinstance(config, MlpConfig) else 0.0)
        if isinstance(config, MlpConfig):
            for layer in range(config.layers):
                layers.append(
                    linear.build_linear(config, f"blocks.{layer}", width, config.hidden, bias=True)
                )
                width = config.hidden
        self.blocks = nn.ModuleList(layers)
        self.head = OutputLayer(config, width)
        initialise_fan_in(self, config, seed)

    def hidden(
        self,
        tokens: Tensor,
        cache: StateCache | None = None,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states (B, T, D) of tokens (B, T), which follow those in the cache.

        `mask` (B, S) is False on left padding, over cached and new positions; it is seen as if
        nothing were there. So are tokens of other `documents` (B, T), which are not cached.
        """
        start = 0 if cache is None else cache.length
        check(tokens, start, mask)
        if cache is not None:
            cache.reserve(tokens.shape[1])
        marked = tokens if mask is None else torch.where(mask[:, start:], tokens, -1)  # (B, T)
        before = (
            self._nothing(tokens.shape[0]) if cache is None else cache.state[0]
        )  # (B, history - 1)
        history = torch.cat((before, marked), 1)  # (B, history - 1 + T)
        if cache is not None:
            cache.advance(tokens.shape[1], history[:, history.shape[1] - self.history + 1 :])
        x = self.embedding(history).unfold(1, self.history, 1)  # (B, T, dim, history)
        if documents is not None:
            x = self._alone(x, tokens, cache, documents)
        x = x.transpose(2, 3).flatten(2)
        for layer in self.blocks:
            x = F.relu(layer(x))
            x = x if self.dropout is None else self.dropout(x)
        return x

    def forward(
        self, tokens: Tensor, cache: StateCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits (B, T, vocab_size) of the token after each position.

        Arguments as `hidden`.
        """
        return self.logits(self.hidden(tokens, cache, mask))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states: (..., D) -> (..., vocab_size)."""
        return self.head.linear(hidden)

    def output(self, hidden: Tensor) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return the head in parts, differentiable: what it reads, its matrix, and no bias.

        The parts have the shapes (..., width) and (vocab_size, width); a packed matrix is its
        layer.
        """
        return hidden, head_matrix(self.head.linear), None

    def output_of(
        self, tokens: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return `output(hidden(tokens, documents=documents))`."""
        return self.output(self.hidden(tokens, documents=documents))

    def new_cache(self, batch: int, length: int) -> StateCache:
        """Return an empty cache for `batch` rows of up to `length` tokens.

        It keeps the last history - 1 tokens.
        """
        return StateCache(length, self._nothing(batch))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.padding.device

    @property
    def dtype(self) -> torch.dtype:
        """The float type of the weights; packed layers unpack into it."""
        return self.embedding.padding.dtype

    def _alone(
        self, x: Tensor, tokens: Tensor, cache: StateCache | None, documents: Tensor
    ) -> Tensor:
        """Return embeddings (B, T, dim, history) with padding where another document is."""
        check_documents(tokens, documents)
        if cache is not None:
            raise RequestError("documents: a cache holds one text a row; read documents without it")
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        positions = columns - document_starts(documents)  # (B, T)
        back = torch.arange(self.history - 1, -1, -1, device=tokens.device)  # (history,)
        mine = (back <= positions[..., None])[:, :, None]  # (B, T, 1, history)
        return torch.where(mine, x, self.embedding.padding[:, None])

    def _nothing(self, batch: int) -> Tensor:
        return torch.full((batch, self.history - 1), -1, device=self.device)
