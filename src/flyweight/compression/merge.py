"""The same model with its adapters made part of the matrices that they are around."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.config.adapters import MERGEABLE, Lora
from flyweight.config.linear_kinds import Dense, LinearKind
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.config.sparse_kinds import Masked
from flyweight.errors import RequestError
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import LinearLayer, layers_of
from flyweight.spec.adapters import site_layers, sites
from flyweight.spec.linears import kind_of, linear_names


@torch.no_grad()
def merge(model: Model, unpack: bool = False) -> Decoder:
    """Return a copy of a model without adapters, which computes the same to rounding.

    Every LoRA and IA3 becomes part of its matrix and bias, in float32. A LoRA fills the zeros of a
    pruned matrix, which is dense from then on. `unpack` makes all packed matrices dense first.
    Raises RequestError for what cannot be merged, as `merged` does.
    """
    config = merged(model.config, unpack)
    with torch.device("meta"):
        plain = Decoder(config)
    layers = dict(layers_of(model))
    own = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for name in plain.state_dict():
        parent = name.rpartition(".")[0]
        layer = layers.get(parent)
        if name.endswith(".mask"):
            tensors[name] = own[name].clone()
        elif layer is not None and (layer.adapters or name not in own):
            tensors |= _tensors(parent, layer)
        elif name not in tensors:
            tensors[name] = own[name].clone()
    plain.load_state_dict(tensors, assign=True)
    return plain.to(model.dtype).train(model.training)


def _tensors(name: str, layer: LinearLayer) -> dict[str, Tensor]:
    """Return the matrix and the bias that a layer stands for, by their names in the model."""
    weight, bias = layer.dense(), layer.bias
    dtype = weight.dtype
    weight = weight.float() if dtype.itemsize < 4 else weight
    bias = None if bias is None else bias.to(weight.dtype)
    for adapter in layer.adapters:
        weight, bias = adapter.folded(weight, bias)
    found = {f"{name}.weight": weight.to(dtype).clone()}
    if bias is not None:
        found[f"{name}.bias"] = bias.to(dtype).clone()
    return found


def merged(config: Architecture, unpack: bool = False) -> ModelConfig:
    """Return the config that `merge` gives a model of this one.

    Raises RequestError where there is nothing to merge, an adapter becomes part of no matrix, each
    visit of a shared layer has its own, or matrices are packed and not to be unpacked.
    """
    if not isinstance(config, ModelConfig) or not config.adapters:
        raise RequestError(
            "merge: the model has no adapters; nothing is to be merged, so take it as it is"
        )
    for adapter in config.adapters:
        if adapter.kind not in MERGEABLE:
            raise RequestError(f"merge: {_NO_MATRIX[adapter.kind]}; use the model as it is")
    places = sites(config)
    for site in places:
        if site.copies is not None:
            raise RequestError(
                f"merge: {site.name} is used {site.copies} times, and each use has its own "
                f"{site.adapter.kind} (per: visit), so that no one matrix stands for all; use the "
                f"model as it is, or tune it with per: layer"
            )
    packed = {
        name: kind.label
        for site in places
        for name in site_layers(site)
        if not ((kind := kind_of(config, name)).plain or isinstance(kind, Masked))
    }
    if packed and not unpack:
        name, kind = next(iter(packed.items()))
        raise RequestError(
            f"merge: {name} is stored as {kind}, and rounding its sum with an adapter again would "
            f"cost quality; merge with unpack=true (--unpack), which makes every matrix dense, or "
            f"use the model as it is"
        )
    linears = {} if unpack else _with_filled(config)
    return config.model_copy(update={"adapters": (), "linears": linears})


def filled(config: ModelConfig) -> list[str]:
    """Return the names of pruned matrices whose zeros a merge fills: those with a LoRA around."""
    loras = (site for site in sites(config) if isinstance(site.adapter, Lora))
    names = dict.fromkeys(name for site in loras for name in site_layers(site))
    return [name for name in names if isinstance(kind_of(config, name), Masked)]


def _with_filled(config: ModelConfig) -> dict[str, LinearKind]:
    """Return the kinds of a merged model's matrices: pruned ones that a LoRA fills are dense."""
    dense = filled(config)
    masked = [name for name in linear_names(config) if isinstance(kind_of(config, name), Masked)]
    if len(dense) < len(masked):
        return {**dict.fromkeys(dense, Dense()), **config.linears}
    return {
        pattern: kind for pattern, kind in config.linears.items() if not isinstance(kind, Masked)
    }


_NO_MATRIX = {
    "bottleneck": (
        "a bottleneck has an activation between its matrices, and so becomes part of no matrix of "
        "the model"
    ),
    "prefix": "a prefix is keys and values beside the text's, and becomes part of no matrix",
}
