"""Inputs that need no gradient: each one saves one matrix product in the backward pass.

A norm before a branch is trained, and so is everything behind it. With norms after the branches,
the first place of the stack reads the embedding itself, to which no gradient goes if all its tables
are packed.
"""

from __future__ import annotations

from flyweight.config.schema import Deep, Learned, ModelConfig, NoSharing
from flyweight.spec.linears import kind_of
from flyweight.spec.visits import Visit, visits


def visits_without_input_grad(config: ModelConfig, looped: bool) -> list[Visit]:
    """Return the visits whose input no gradient goes to."""
    trained = ["embedding.tokens"]
    trained += ["embedding.expand"] if config.embedding.rank else []
    trained += ["embedding.bigram"] if config.embedding.bigram.kind != "none" else []
    index = not isinstance(config.sharing, NoSharing) and config.sharing.index
    seen = (
        isinstance(config.position, Learned)
        or index
        or any(_trains(config, name) for name in trained)
    )
    if seen or config.norm.placement == "pre":
        return []
    restarts = isinstance(config.thinking, Deep) and config.thinking.input == "embedding"
    return [
        visit
        for visit in visits(config, looped)
        if visit.stack_index == 0 and (visit.pass_ == 0 or restarts)
    ]


def qkv_need_grad(config: ModelConfig, visit: Visit) -> tuple[bool, bool, bool]:
    """Return whether queries, keys and values of a blind visit get a gradient."""
    options, thinking = config.layer(visit.layer).attention, config.thinking
    name = f"blocks.{visit.layer}.attention"
    # A learned rate has mixed this place's memory once two passes have left their keys in it.
    mixed = isinstance(thinking, Deep) and thinking.learned and visit.pass_ > 1
    return (
        _trains(config, f"{name}.q") or options.bias or options.qk_norm or options.gain,
        _trains(config, f"{name}.k") or options.bias or options.qk_norm or mixed,
        _trains(config, f"{name}.v") or options.bias or mixed,
    )


def saved_products(config: ModelConfig, visit: Visit) -> int:
    """Return how many of the four products of attention's backward a blind visit saves."""
    q, k, v = qkv_need_grad(config, visit)
    return 4 - (q + k + (q or k) + v)


def _trains(config: ModelConfig, name: str) -> bool:
    return kind_of(config, name).trains
