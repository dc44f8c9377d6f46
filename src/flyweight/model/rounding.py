"""Training with rounded weights: products see the nearest codes, gradients go past the rounding.

The straight-through estimator of Bengio et al. 2013. The matrices themselves stay float, so that
small steps add up; rounding them to nearest afterwards gives what was trained.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.config.linear_kinds import LinearKind
from flyweight.config.schema import Architecture
from flyweight.errors import RequestError
from flyweight.model.linear import Linear, build
from flyweight.model.linear_layer import layers_of
from flyweight.model.rounded import Rounded
from flyweight.spec.linears import block_names, kind_of


def check_rounding(config: Architecture, where: str) -> None:
    """Raise RequestError where a matrix of a model's blocks is not a float one without a mask.

    `where` is the stage.
    """
    for name in block_names(config):
        if not (kind := kind_of(config, name)).plain:
            raise RequestError(
                f"{where}.round: {name} is {kind.label}, and only dense matrices are trained for "
                f"rounding; start from a dense model"
            )


def round_in_training(model: nn.Module, config: Architecture, kind: LinearKind | None) -> None:
    """Let the matrices of a model's blocks be rounded to `kind` wherever they are read.

    None lets them be read as they are.
    """
    layers = dict(layers_of(model))
    for name in block_names(config):
        layer = layers[name]
        if not isinstance(layer, Linear):
            continue  # refused before a training begins
        layer.rounding = None
        if kind is not None:
            rounder = build(kind, layer.in_features, layer.out_features, False)
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
