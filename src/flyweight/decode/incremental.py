"""One text that grows by turns: its tokens, and a cache that is not computed again where the text merely grew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from flyweight.decode.generate import UNLIMITED, Sampling, Speaker, generator

Ended = Literal["end", "stop", "length", "context"]

_FIRST = 256
"""Tokens of the first cache: it grows by doubling, as a model's whole context can be more than memory holds."""


@dataclass(frozen=True)
class Continued:
    """The new tokens of one continuation, why it ended, and how many tokens were read for it, or known from before."""

    tokens: list[int]
    ended: Ended
    read: int
    known: int


class RunningText:
    """What a model has read so far, and its keys and values.

    `tokens` are those in the cache. The model's dropout is off while it speaks. Only the first
    `vocab_size` ids are drawn, or all that the model has rows for.
    """

    def __init__(self, model: Speaker, vocab_size: int | None = None) -> None:
        self.model, self.vocab_size = model, vocab_size
        self.context: int = model.config.context or UNLIMITED
        self.tokens: list[int] = []
        self.cache: Any = None

    def forget(self) -> None:
        """Forget everything that was read."""
        self.tokens, self.cache = [], None

    @torch.inference_mode()
    def go_on(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        seed: int,
        most: int,
        ends: Collection[int],
        stop: Callable[[list[int]], bool],
    ) -> Continued:
        """Return what comes after the text `tokens`, up to `most` tokens, one of `ends` (left out), `stop` or a full context.

        Only what differs from the text read before is read. The draws are those of `generate` for
        the same seed and tokens.
        """
        draws = generator(seed, tuple(tokens), 0)
        training = self.model.training
        self.model.train(False)
        try:
            known = self._keep(tokens)
            new: list[int] = []
            hidden = self._read(tokens[known:])
            while True:
                draw = torch.rand((), generator=draws) if sampling.temperature else torch.zeros(())
                logits = self.model.logits(hidden)[:, : self.vocab_size]  # (1, V)
                token = int(sampling.choose(logits, draw[None].to(hidden.device)))
                if token in ends:
                    return Continued(new, "end", len(tokens) - known, known)
                new.append(token)
                if stop(new):
                    return Continued(new, "stop", len(tokens) - known, known)
                if len(new) >= most:
                    return Continued(new, "length", len(tokens) - known, known)
                if len(self.tokens) >= self.context:
                    return Continued(new, "context", len(tokens) - known, known)
                hidden = self._read([token])
        finally:
            self.model.train(training)

    def _keep(self, tokens: Sequence[int]) -> int:
        """Cut the cache back to what it shares with `tokens`, the last of them left out, and return how much that is."""
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
        """Return whether the cache could be cut: one that keeps a sum or a window of the past cannot."""
        if not self.cache.truncate(
            length, torch.tensor([self.tokens[:length]], device=self.model.device)
        ):
            return False
        self.tokens = self.tokens[:length]
        return True

    def _read(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read more tokens and return the last hidden state (1, dim)."""
        wanted = len(self.tokens) + len(tokens)
        if self.cache is None:
            self.cache = self.model.new_cache(1, min(self.context, max(wanted, _FIRST)))
        elif wanted > self.cache.capacity:
            self.cache.resize(min(self.context, max(wanted, 2 * self.cache.capacity)))
        length = self.cache.length
        try:
            hidden = self.model.hidden(
                torch.tensor([list(tokens)], device=self.model.device), self.cache
            )
        except BaseException:
            # Interrupted half-way through the layers: a cache that has grown in some of them is not
            # to be trusted.
            if self.cache.length != length or not hasattr(self.cache, "keys"):
                self.forget()
            raise
        self.tokens += tokens
        return hidden[:, -1]
