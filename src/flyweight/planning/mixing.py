"""Choose what `flyweight train` mixes its network with: counts within the budget, and a pointer.

For tiny texts, the network is not mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyweight.config import load, schema
from flyweight.spec import flops

LEAST_VALIDATED = 512
"""Validation tokens below which no gates are fitted, and the network is not mixed."""

ORDER, MIN_COUNT = 5, 1
"""The n-grams to count where no budget limits their number."""

BYTES_PER_NGRAM = 8
"""The most bytes of an n-gram, for a vocabulary of up to 32,768 entries.

For a larger one, 2 more.
"""

LEAST_NGRAMS = 1000
"""N-grams of two tokens and more below which counts are left out."""

NETWORK_SHARE = 0.5
"""Share of a limit of parameters or bytes that the network may take.

Its counts may take the rest.
"""


def stages(
    given: Mapping[str, object],
    budget: schema.Budget,
    network: schema.ModelConfig,
    stored: int,
    validated: float,
) -> dict[str, Any]:
    """Return a raw recipe's stages: `network`, and `model`, which mixes it.

    For a tiny text, `model` is the network itself. `given` are the user's stages, `stored` the
    bytes of the network's folder, `validated` the tokens of the validation text.
    """
    if validated < LEAST_VALIDATED or "network" not in given:
        return alone(given)
    mix = {"stage": "mix", "input": "network", "counts": _counts(budget, network, stored)}
    return {**given, "model": load.merge(mix, given.get("model") or {})}


def alone(given: Mapping[str, object]) -> dict[str, object]:
    """Return a raw recipe's stages with the network as the `model`, not mixed."""
    if "network" not in given:
        return dict(given)
    others = {name: stage for name, stage in given.items() if name not in ("network", "model")}
    return {"model": given["network"], **others}


def _counts(
    budget: schema.Budget, network: schema.ModelConfig, stored: int
) -> dict[str, object] | None:
    vocab = network.vocab_size or 0
    entry = BYTES_PER_NGRAM + (2 if vocab > 2**15 else 0)
    rooms = list[int]()
    if budget.bytes is not None:
        rooms.append(int(budget.bytes - stored) // entry)
    if budget.parameters is not None:
        rooms.append(int(budget.parameters) - flops.parameters(network).unique)
    if not rooms:
        return {"order": ORDER, "min_count": MIN_COUNT}
    room = int(0.98 * min(rooms)) - 4 * network.dim - 1000  # the gates and their cases
    if room < vocab + LEAST_NGRAMS:
        return None
    return {"order": ORDER, "min_count": MIN_COUNT, "limit": room}
