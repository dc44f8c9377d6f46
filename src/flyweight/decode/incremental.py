"""One text that grows by turns: its tokens, and a cache that is kept where the text only grew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flyweight.config.speed import EngineName
from flyweight.decode.generate import UNLIMITED, CausalLM, generator
from flyweight.decode.sampling import Sampling
from flyweight.model import kernels
from flyweight.model.cache import KVCache

Ended = Literal["end", "stop", "length", "context"]

_FIRST = 256
"""Tokens of the first cache: it grows by doubling.

A model's whole context can be more than memory holds.
"""


@dataclass(frozen=True)
class Extension:
    """The new tokens of one continuation and why it ended.

    `read` tokens were read for it, `known` ones were in the cache.
    """

    tokens: list[int]
    ended: Ended
    read: int
    known: int


class IncrementalDecoder:
    """What a model has read so far, and its keys and values.

    `tokens` are those in the cache. The model's dropout is off while it speaks. Only the first
    `vocab_size` ids are drawn, or all that the model has rows for. `engine` is as in `generate`.
    """

    def __init__(
        self, model: CausalLM, vocab_size: int | None = None, engine: EngineName = "auto"
    ) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.engine: EngineName = engine
        self.context: int = model.config.context or UNLIMITED
        self.tokens: list[int] = []
        self.cache: Any = None

    def forget(self) -> None:
        """Forget everything that was read."""
        self.tokens = []
        self.cache = None

    @torch.inference_mode()
    def extend(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        seed: int,
        most: int,
        ends: Collection[int],
        stop: Callable[[list[int]], bool],
    ) -> Extension:
        """Return what comes after the text `tokens`.

        It ends after `most` tokens, before one of `ends`, where `stop` says so, or where the
        context is full.

        Only what differs from the text read before is read. The draws are those of `generate` for
        the same seed and tokens.
        """
        draws = generator(seed, tuple(tokens), 0)
        training = self.model.training
        self.model.train(False)
        try:
            reused = self._keep(tokens)
            with kernels.engine(self.engine):
                hidden = self._read(tokens[reused:])
                new: list[int] = []
                ended: Ended | None = None
                while ended is None:
                    token = self._choose(hidden, sampling, draws)
                    if token in ends:
                        ended = "end"
                        continue
                    new.append(token)
                    if stop(new):
                        ended = "stop"
                    elif len(new) >= most:
                        ended = "length"
                    elif len(self.tokens) >= self.context:
                        ended = "context"
                    else:
                        hidden = self._read([token])
            return Extension(new, ended, len(tokens) - reused, reused)
        finally:
            self.model.train(training)

    def _choose(self, hidden: Tensor, sampling: Sampling, draws: torch.Generator) -> int:
        """Return the next token after a hidden state (1, dim)."""
        draw = torch.zeros(())
        if sampling.temperature:
            draw = torch.rand((), generator=draws)
        logits = self.model.logits(hidden)[:, : self.vocab_size]  # (1, V)
        return int(sampling.choose(logits, draw[None].to(hidden.device)))

    def _keep(self, tokens: Sequence[int]) -> int:
        """Cut the cache back to what it shares with `tokens`, and return how much that is.

        The last of `tokens` is always read.
        """
        most = min(len(self.tokens), len(tokens) - 1)
        same = next((at for at in range(most) if self.tokens[at] != tokens[at]), most)
        if (
            self.cache is not None
            and same < len(self.tokens)
            and (same == 0 or not self._cut(same))
        ):
            self.forget()
        return len(self.tokens)

    def _cut(self, length: int) -> bool:
        """Return whether the cache could be cut: a sum or a full window of the past cannot be."""
        if not self.cache.truncate(
            length, torch.tensor([self.tokens[:length]], device=self.model.device)
        ):
            return False
        self.tokens = self.tokens[:length]
        return True

    def _read(self, tokens: Sequence[int]) -> Tensor:
        """Read more tokens and return the last hidden state (1, dim)."""
        total = len(self.tokens) + len(tokens)
        if self.cache is None:
            self.cache = self.model.new_cache(1, min(self.context, max(total, _FIRST)))
        elif total > self.cache.capacity:
            self.cache.resize(min(self.context, max(total, 2 * self.cache.capacity)))
        length = self.cache.length
        try:
            hidden = self.model.hidden(
                torch.tensor([list(tokens)], device=self.model.device), self.cache
            )
        except BaseException:
            # Interrupted half-way through the layers: keys behind the others are written again, but
            # a state, or a key whose place was taken, is lost in some layers.
            whole = isinstance(self.cache, KVCache) and not self.cache.drops(total)
            if self.cache.length != length or not whole:
                self.forget()
            raise
        self.tokens += tokens
        return hidden[:, -1]
