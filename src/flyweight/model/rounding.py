"""Training with rounded weights: products see the nearest codes, gradients go past the rounding.

The straight-through estimator of Bengio et al. 2013. The matrices themselves stay float, so that
small steps add up; rounding them to nearest afterwards gives what was trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.config.linear_kinds import LinearKind
from flyweight.config.schema import Architecture
from flyweight.errors import RequestError
from flyweight.model.linear import Linear, build
from flyweight.model.linear_layer import layers_of
from flyweight.model.rounded import Rounded
from flyweight.spec.linears import block_names, kind_of, matches


def check_rounding(config: Architecture, layers: Collection[str], where: str) -> None:
    """Raise RequestError where a matrix of a model's blocks is not a float one without a mask.

    It is raised as well for a pattern in `layers` that no such matrix has. `where` is the stage.
    """
    names = block_names(config)
    for pattern in layers:
        if not any(matches(name, pattern) for name in names):
            raise RequestError(
                f"{where}.round_layers.{pattern}: no matrix of a block has such a name; names are "
                f"{', '.join(name for name in names if name.startswith('blocks.0'))}"
            )
    for name in names:
        if not (kind := kind_of(config, name)).plain:
            raise RequestError(
                f"{where}.round: {name} is {kind.label}, and only dense matrices are trained for "
                f"rounding; start from a dense model"
            )


def round_in_training(
    model: nn.Module,
    config: Architecture,
    kind: LinearKind | None,
    layers: Mapping[str, LinearKind] = MappingProxyType({}),
) -> None:
    """Let the matrices of a model's blocks be rounded to `kind` wherever they are read.

    None lets them be read as they are. `layers` gives some a kind of their own, by patterns.
    """
    modules = dict(layers_of(model))
    for name in block_names(config):
        layer = modules[name]
        if not isinstance(layer, Linear):
            continue  # refused before a training begins
        layer.rounding = None
        own = (each for pattern, each in layers.items() if matches(name, pattern))
        chosen = next(own, kind)
        if chosen is not None:
            rounder = build(chosen, layer.in_features, layer.out_features, False)
            assert isinstance(rounder, Rounded)
            layer.rounding = partial(_straight_through, rounder.to(layer.weight.device))


def _straight_through(rounder: Rounded, weight: Tensor) -> Tensor:
    result = _StraightThrough.apply(weight, rounder)
    assert isinstance(result, Tensor)
    return result


class _StraightThrough(torch.autograd.Function):
    """The rounded weight (out, in), whose gradient is that of the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounder: Rounded) -> Tensor:
        return rounder.rounded(weight.float()).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None
