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

    `repeat_index` counts the uses of this layer within a pass, `stack_index` is its position in the
    unrolled stack. `keys_per_token` is how many keys its attention reads for each token: 1, or 2
    with a memory beside its own. It is 0 for the last visit of a pass whose output nothing reads,
    because the next pass begins with the embedding: only keys and values are computed, for the
    memory.
    """

    layer: int
    repeat_index: int = 0
    stack_index: int = 0
    pass_: int = 0
    keys_per_token: int = 1


def visits(config: ModelConfig, looped: bool = True) -> tuple[Visit, ...]:
    """Return the layers in the order in which a forward pass runs them.

    Not `looped` is before a span's loop is switched on.
    """
    stack, thinking = _stack(config), config.thinking
    if not looped and isinstance(config.sharing, Span):
        stack = tuple(visit for visit in stack if visit.repeat_index == 0)
    if not isinstance(thinking, Deep):
        return stack
    order = []
    for pass_ in range(thinking.passes + 1):
        for visit in stack:
            if visit is stack[-1] and pass_ < thinking.passes and thinking.input == "embedding":
                keys = 0
            else:
                # The first pass finds no memory, but for what `first` takes from its first place.
                keys = 2 if pass_ or (thinking.memory == "first" and visit.stack_index) else 1
            order.append(visit._replace(pass_=pass_, keys_per_token=keys))
    return tuple(order)


def visits_of(config: ModelConfig, layer: int) -> tuple[Visit, ...]:
    """Return the visits of one layer, in order."""
    return tuple(visit for visit in visits(config) if visit.layer == layer)


def use_of(config: ModelConfig, visit: Visit) -> int:
    """Return which of its layer's visits one is, counted from 0 over all passes."""
    if isinstance(config.sharing, NoSharing):
        times = 1
    elif isinstance(config.sharing, Span):
        first, last = config.sharing.span
        times = config.sharing.times if first <= visit.layer <= last else 1
    else:
        times = config.sharing.times
    return visit.pass_ * times + visit.repeat_index


def stack_size(config: ModelConfig) -> int:
    """Return how many uses of layers one pass is made of: the places of an index embedding."""
    return len(_stack(config))


def depth_rates(config: ModelConfig, layer: int) -> tuple[float, ...]:
    """Return how likely a layer's branches are dropped in training, for each of its uses in order.

    The rate grows linearly over the places of the stack (Huang et al. 2016). Nothing where nothing
    is dropped.
    """
    if not config.dropout.depth:
        return ()
    step = config.dropout.depth / stack_size(config)
    return tuple(step * (visit.stack_index + 1) for visit in visits_of(config, layer))


def mixes_values(config: ModelConfig, layer: int) -> bool:
    """Return whether a use of the layer mixes its values with those of the first use of a layer."""
    if not config.layer(layer).attention.value_residual:
        return False
    return any(visit.stack_index for visit in visits_of(config, layer))


def unet_sources(config: ModelConfig) -> dict[int, int]:
    """Return for each place of the stack that reads its mirror image which one that is.

    Neighbours are left out: the second of them reads what the first put out anyway.
    """
    last = stack_size(config) - 1
    return {last - place: place for place in range(last) if last - place > place + 1}


def reads_the_last_visit(config: ModelConfig) -> bool:
    """Return whether a visit reads nothing but the embedding and what the visit before put out."""
    mixing = any(mixes_values(config, layer) for layer in range(config.layers))
    return not (isinstance(config.thinking, Deep) or mixing or "unet" in config.skips)


def slots(config: ModelConfig, looped: bool = True) -> tuple[int, ...]:
    """Return the keys per token of each cache slot: of every visit that attends."""
    return tuple(visit.keys_per_token for visit in visits(config, looped) if visit.keys_per_token)


def uses(config: ModelConfig, looped: bool = True) -> tuple[Counter[int], Counter[int]]:
    """Return how often a forward pass uses each layer, and how often only its keys and values."""
    order = visits(config, looped)
    return Counter(visit.layer for visit in order if visit.keys_per_token), Counter(
        visit.layer for visit in order if not visit.keys_per_token
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
    repeats = Counter[int]()
    stack = []
    for place, layer in enumerate(order):
        stack.append(Visit(layer, repeats[layer], place))
        repeats[layer] += 1
    return tuple(stack)
