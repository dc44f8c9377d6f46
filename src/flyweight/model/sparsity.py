"""How much of a pruned model is zero: found in its weights, not taken from what was asked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.model.adapters import LoraAdapter, LoraPart
from flyweight.model.dense_state import written_out
from flyweight.model.linear_layer import LinearLayer, layers_of


@torch.no_grad()
def sparsity_facts(model: nn.Module, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the zeros of a model's pruned matrices; nothing for a model that was never pruned.

    `sparsity` is the share of zeros in the matrices that are effective: a LoRA's product is part of
    its matrix, so pruned adapters leave that dense. `adapter_sparsity` is the share in pruned A and
    B themselves. `nonzero` and `adapter_nonzero` count the other numbers. `idle_adapters` of the
    pruned `adapters` add nothing any more: their product is zero everywhere. `names` are the
    matrices that were pruned where the model itself does not tell: one that was merged, or rounded.
    """
    names = pruned_layers(model) if names is None else names
    weights = _Count()
    for name, layer in layers_of(model):
        if name in names:
            weights.add(_effective(layer))
    adapters = _Count()
    pruned = [each for each in model.modules() if isinstance(each, LoraAdapter) and each.masked]
    for adapter in pruned:
        for tensor, _ in adapter.masks():
            adapters.add(tensor)
    counts = {"adapters": len(pruned), "idle_adapters": sum(not adds(each) for each in pruned)}
    return weights.facts("") | adapters.facts("adapter_") | (counts if pruned else {})


def adds(adapter: LoraAdapter) -> bool:
    """Return whether a LoRA changes its matrices: a number of B meets one of A."""
    product = adapter.b.ne(0).float() @ adapter.a.ne(0).float()  # (..., out, in)
    return bool(product.any())


def pruned_layers(model: nn.Module) -> set[str]:
    """Return the names of the layers that were pruned, or have a pruned LoRA around them."""
    return {
        name
        for name, layer in layers_of(model)
        if written_out(layer.kind) or _has_pruned_adapter(layer)
    }


def _has_pruned_adapter(layer: LinearLayer) -> bool:
    parts = (adapter for adapter in layer.adapters if isinstance(adapter, LoraPart))
    return any(part.lora.a_mask is not None for part in parts)


def _effective(layer: LinearLayer) -> Tensor:
    """Return the matrix (out, in) that a layer computes with, its adapters part of it."""
    weight = layer.dense()
    for adapter in layer.adapters:
        weight, _ = adapter.folded(weight, None)
    return weight


class _Count:
    """Zeros among numbers."""

    def __init__(self) -> None:
        self.numbers = 0
        self.nonzero = 0

    def add(self, tensor: Tensor) -> None:
        """Count one tensor's."""
        self.numbers += tensor.numel()
        self.nonzero += int(tensor.count_nonzero())

    def facts(self, prefix: str) -> dict[str, Any]:
        """Return them as facts; nothing where nothing was counted."""
        if not self.numbers:
            return {}
        share = 1 - self.nonzero / self.numbers
        return {f"{prefix}sparsity": share, f"{prefix}nonzero": self.nonzero}
