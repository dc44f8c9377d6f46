"""What calibrating will cost, before anything is read."""

from __future__ import annotations

import torch

from flyweight.compression.calibration import calibrated_layers, calibration_window, parts_of
from flyweight.config.schema import Architecture, Calibration, ModelConfig, NoThinking
from flyweight.model.build import build
from flyweight.model.linear_layer import layers_of
from flyweight.spec.visits import visits
from flyweight.store.stage import Work

COLUMN_SECONDS = 2.5e-4
"""Seconds of each column that is rounded or pruned in turn: calls, not arithmetic.

From 288 columns in 0.19 to 0.23 s on one thread of a busy machine, fixed costs included.
"""

BACKWARD = 2
"""Forward passes that a backward pass costs."""


def input_sizes(config: Architecture) -> dict[str, int]:
    """Return how many numbers each linear layer of a model reads, by its name."""
    with torch.device("meta"):
        model = build(config)
    return {name: layer.in_features for name, layer in layers_of(model)}


def gathering(calibration: Calibration, config: Architecture) -> Work:
    """Return the work of gathering what all layers of the blocks read, part by part.

    A decoder without thinking runs each part twice: to gather, and with the changed layers. Other
    models begin anew for each part and end it there. Beside that, x x^T is summed for every input.
    """
    tokens = _tokens(calibration, config)
    resumes = isinstance(config, ModelConfig) and isinstance(config.thinking, NoThinking)
    passes = 2.0 if resumes else (len(parts_of(config)) + 1) / 2
    sizes = input_sizes(config)
    read = [name for name in calibrated_layers(config, list(sizes)) if not _shares(name, sizes)]
    times = _visits_of_layers(config)
    sums = sum(2 * sizes[name] ** 2 * times.get(_layer(name), 1) for name in read)
    return Work(config, passes * tokens, float(tokens * sums))


def weighing(calibration: Calibration, config: Architecture) -> Work:
    """Return the work of one gradient on the calibration text."""
    return Work(config, (1 + BACKWARD) * _tokens(calibration, config))


def column_seconds(config: Architecture) -> float:
    """Return the seconds of going through the columns of all layers of the blocks, one by one."""
    sizes = input_sizes(config)
    return COLUMN_SECONDS * sum(sizes[name] for name in calibrated_layers(config, list(sizes)))


def _tokens(calibration: Calibration, config: Architecture) -> int:
    window = calibration_window(calibration, config)
    return calibration.tokens // window * window


def _shares(name: str, sizes: dict[str, int]) -> bool:
    """Return whether a layer reads what an earlier one reads: keys and values, and a gated `up`."""
    stem, _, last = name.rpartition(".")
    first = {"k": "q", "v": "q", "up": "gate"}.get(last)
    return first is not None and f"{stem}.{first}" in sizes


def _layer(name: str) -> int:
    """Return the block that a layer is in; -1 for one outside of blocks."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else -1


def _visits_of_layers(config: Architecture) -> dict[int, int]:
    """Return how often a text goes through each block."""
    if not isinstance(config, ModelConfig):
        return {}
    order = [visit.layer for visit in visits(config)]
    return {layer: order.count(layer) for layer in set(order)}
