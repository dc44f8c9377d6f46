"""The visit list: which layer runs when, and in which pass."""

from __future__ import annotations

from typing import NamedTuple

from flyweight.config.schema import Cycle, ModelConfig, Repeat


class Visit(NamedTuple):
    """One use of a layer; a visit's index in the list is its slot in the key/value cache."""

    layer: int
    pass_: int = 0


def visits(config: ModelConfig) -> tuple[Visit, ...]:
    """Return the layers in the order in which a forward pass runs them."""
    sharing, layers = config.sharing, range(config.layers)
    if isinstance(sharing, Repeat):
        return tuple(Visit(layer, turn) for layer in layers for turn in range(sharing.times))
    if isinstance(sharing, Cycle):
        return tuple(Visit(layer, turn) for turn in range(sharing.times) for layer in layers)
    return tuple(Visit(layer) for layer in layers)
