"""Deep thinking: a memory of keys and values that one pass over the input leaves to the next.

    K~_0 is empty (own), or the first place's K of pass 0 for every place (first)
    pass t reads [K~_t ; K_t] and leaves K~_(t+1) = rate * K_t + (1 - rate) * K~_t
    own begins with K~_1 = K_0

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
        self.fixed = config.rate
        self.start = logit(config.rate)
        weight = nn.Parameter(torch.empty(1)) if config.learned else None
        self.register_parameter("weight", weight)

    def forward(self, memory_kv: KeysAndValues, kv: KeysAndValues) -> KeysAndValues:
        """Return rate * kv + (1 - rate) * memory_kv, of keys and of values."""
        rate = self.fixed if self.weight is None else self.weight.sigmoid().to(kv[0].dtype)
        return torch.lerp(memory_kv[0], kv[0], rate), torch.lerp(memory_kv[1], kv[1], rate)


class HasMemoryRate(Protocol):
    """A layer with a rate of memory, where its model thinks."""

    rate: MemoryRate | None


class PassMemory:
    """The memory of each place of the stack during one forward pass.

    `kv` are its keys and values of the tokens, by place.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.passes = 0
        self.first = False
        self.restarts = False
        if isinstance(config.thinking, Deep):
            self.passes = config.thinking.passes
            self.first = config.thinking.memory == "first"
            self.restarts = config.thinking.input == "embedding"
        self.kv: dict[int, KeysAndValues] = {}

    def store(self, visit: Visit, block: HasMemoryRate, kv: KeysAndValues) -> None:
        """Take a visit's keys and values into its place's memory, if a later visit reads it."""
        if self.first and visit.pass_ == 0 and visit.stack_index == 0:
            self.kv = dict.fromkeys(range(stack_size(self.config)), kv)
        elif visit.pass_ < self.passes:
            memory_kv = self.kv.get(visit.stack_index)
            assert block.rate is not None
            self.kv[visit.stack_index] = kv if memory_kv is None else block.rate(memory_kv, kv)
