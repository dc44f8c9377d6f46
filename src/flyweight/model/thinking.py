"""Deep thinking: a memory of keys and values that one pass over the input leaves to the next.

    K~_0 is empty (own), or the first place's K of pass 0 for every place (first)
    pass t reads [K~_t ; K_t] and leaves K~_(t+1) = rate * K_t + (1 - rate) * K~_t;   own begins with K~_1 = K_0

Every token has its own part of the memory, which depends on it and on tokens before it alone, and a
query sees the parts of the tokens up to its own. So the same function is trained, scored and
generated with: a new token goes through all passes, which add its part to what the cache holds of
earlier ones.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from flyweight.config.schema import Deep, ModelConfig
from flyweight.model.residual import logit
from flyweight.spec.visits import Visit, stack_size

KeysAndValues = tuple[Tensor, Tensor]
"""Of some tokens, (B, H_kv, T, D) each."""


class MemoryRate(nn.Module):
    """How much of a pass goes into a layer's memory of keys and values."""

    weight: nn.Parameter | None

    def __init__(self, config: Deep) -> None:
        super().__init__()
        self.fixed, self.start = config.rate, logit(config.rate)
        self.register_parameter("weight", nn.Parameter(torch.empty(1)) if config.learned else None)

    def forward(self, known: KeysAndValues, own: KeysAndValues) -> KeysAndValues:
        """Return rate * own + (1 - rate) * known, of keys and of values."""
        rate = self.fixed if self.weight is None else self.weight.sigmoid().to(own[0].dtype)
        keys, values = (torch.lerp(old, new, rate) for old, new in zip(known, own, strict=True))
        return keys, values


class Rated(Protocol):
    """A layer with a rate of memory, where its model thinks."""

    rate: MemoryRate | None


class Recollection:
    """What each place of the stack remembers of the tokens of one forward pass."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.passes, self.first, self.restarts = 0, False, False
        if isinstance(config.thinking, Deep):
            self.restarts = config.thinking.input == "embedding"
            self.passes, self.first = config.thinking.passes, config.thinking.memory == "first"
        self.thinks = self.passes > 0 or self.first
        self.known: dict[int, KeysAndValues] = {}

    def keep(self, visit: Visit, block: Rated, own: KeysAndValues) -> None:
        """Take the keys and values of a visit into the memory of its place, if a later visit is going to read it."""
        if self.first and visit.pass_ == 0 and visit.place == 0:
            self.known = dict.fromkeys(range(stack_size(self.config)), own)
        elif visit.pass_ < self.passes:
            known = self.known.get(visit.place)
            assert block.rate is not None
            self.known[visit.place] = own if known is None else block.rate(known, own)
