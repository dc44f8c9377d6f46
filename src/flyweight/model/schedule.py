"""The visit list: which layer runs when, and in which pass."""

from __future__ import annotations

from typing import NamedTuple

from flyweight.config.schema import ModelConfig


class Visit(NamedTuple):
    """One use of a layer; a visit's index in the list is its slot in the key/value cache."""

    layer: int
    pass_: int = 0


def visits(config: ModelConfig) -> tuple[Visit, ...]:
    """Return the layers in the order in which a forward pass runs them."""
    return tuple(Visit(layer) for layer in range(config.layers))
