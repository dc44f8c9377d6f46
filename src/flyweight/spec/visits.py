"""The visit list: which layer runs when, and in which pass.

```
layers 0 1 2, span [1, 1] twice       stack   0 1 1 2
thinking with 2 passes                visits  0 1 1 2 | 0 1 1 2 | 0 1 1 2
                                              pass 0    pass 1    pass 2, the one that answers
```
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from flyweight.config.schema import Cycle, Deep, ModelConfig, NoSharing, Span


class Visit(NamedTuple):
    """One use of a layer.

    `turn` counts the uses of this layer within a pass, `place` is where in the unrolled stack it
    stands. `keys` is how many keys per token its attention reads: 1, or 2 with a memory beside its
    own. 0 is for the last place of a pass whose output nothing reads, because the next one begins
    with the embedding: only keys and values are computed, for the memory.
    """

    layer: int
    turn: int = 0
    place: int = 0
    pass_: int = 0
    keys: int = 1


def visits(config: ModelConfig, looped: bool = True) -> tuple[Visit, ...]:
    """Return the layers in the order in which a forward pass runs them.

    Not `looped` is before a span's loop is switched on.
    """
    stack, thinking = _stack(config), config.thinking
    if not looped and isinstance(config.sharing, Span):
        stack = tuple(visit for visit in stack if visit.turn == 0)
    if not isinstance(thinking, Deep):
        return stack
    found = []
    for pass_ in range(thinking.passes + 1):
        for visit in stack:
            if visit is stack[-1] and pass_ < thinking.passes and thinking.input == "embedding":
                keys = 0
            else:
                # The first pass finds no memory, but for what `first` takes from its first place.
                keys = 2 if pass_ or (thinking.memory == "first" and visit.place) else 1
            found.append(visit._replace(pass_=pass_, keys=keys))
    return tuple(found)


def stack_size(config: ModelConfig) -> int:
    """Return how many uses of layers one pass is made of: the places of an index embedding."""
    return len(_stack(config))


def slots(config: ModelConfig, looped: bool = True) -> tuple[int, ...]:
    """Return the keys per token of each cache slot: of every visit that attends."""
    return tuple(visit.keys for visit in visits(config, looped) if visit.keys)


def uses(config: ModelConfig, looped: bool = True) -> tuple[Counter[int], Counter[int]]:
    """Return how often a forward pass uses each layer, and how often only its keys and values."""
    found = visits(config, looped)
    return Counter(visit.layer for visit in found if visit.keys), Counter(
        visit.layer for visit in found if not visit.keys
    )


def _stack(config: ModelConfig) -> tuple[Visit, ...]:
    """Return the visits of one pass."""
    sharing, layers = config.sharing, range(config.layers)
    order = list(layers)
    if isinstance(sharing, Span):
        first, last = sharing.span
        order[first : last + 1] = order[first : last + 1] * sharing.times
    elif isinstance(sharing, Cycle):
        order *= sharing.times
    elif not isinstance(sharing, NoSharing):
        order = [layer for layer in layers for _ in range(sharing.times)]
    turns = Counter[int]()
    found = []
    for place, layer in enumerate(order):
        found.append(Visit(layer, turns[layer], place))
        turns[layer] += 1
    return tuple(found)
