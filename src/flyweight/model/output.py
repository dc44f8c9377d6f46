"""The output matrix of a model that is not a decoder."""

from __future__ import annotations

from torch import nn

from flyweight.config.schema import Architecture
from flyweight.model import linear


class OutputLayer(nn.Module):
    """A matrix from hidden states of `width` numbers to the vocabulary."""

    def __init__(self, config: Architecture, width: int) -> None:
        super().__init__()
        assert config.vocab_size
        self.linear = linear.build_linear(config, "head.linear", width, config.vocab_size)
