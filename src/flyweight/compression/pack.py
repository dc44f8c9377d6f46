"""Pruned matrices stored without their zeros, where that takes fewer bytes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flyweight.checkpoints import load_any
from flyweight.compression.written import inherited, write_model
from flyweight.config.linear_kinds import Dense, LinearKind
from flyweight.config.pruning import Pack
from flyweight.config.schema import Architecture
from flyweight.config.sparse_kinds import Masked, Sparse, TwoFour
from flyweight.errors import RequestError
from flyweight.model import linear
from flyweight.model.build import Model, build
from flyweight.model.linear_layer import layers_of
from flyweight.model.masked import MaskedLinear
from flyweight.model.sparsity import sparsity_facts
from flyweight.spec.linears import kind_of, linear_names
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage


@torch.no_grad()
def pack(model: Model, keep: bool = False) -> Model:
    """Return a copy of a model in which masked matrices are stored in their smallest form.

    That is sparse, two_four or, where neither is smaller, dense. Logits are the same but for the
    order of sums. Raises RequestError for a model without masks, and for one that would not get
    smaller unless `keep` packs every matrix all the same.
    """
    check_masked(model.config)
    kinds = dict[str, LinearKind]()
    for name, layer in masked_layers(model).items():
        kinds[name] = _smallest(layer, allow_dense=not keep)
    if all(isinstance(kind, Dense) for kind in kinds.values()):
        raise RequestError(
            "pack: no pruned matrix takes fewer bytes without its zeros, since a bit for each "
            "place costs more than they do; prune more, or pack all the same with keep=true "
            "(--keep)"
        )
    others = {
        pattern: kind
        for pattern, kind in model.config.linears.items()
        if not isinstance(kind, Masked)
    }
    config = model.config.model_copy(update={"linears": {**kinds, **others}})
    with torch.device("meta"):
        packed = build(config)
    state = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[0] not in kinds
    }
    for name, layer in masked_layers(model).items():
        small = linear.from_dense(kinds[name], layer.weight, layer.bias)
        state |= {f"{name}.{key}": tensor for key, tensor in small.state_dict().items()}
        state |= _adapters(name, model)
    packed.load_state_dict(state, assign=True)
    return packed.to(model.dtype).train(model.training)


def _adapters(name: str, model: Model) -> dict[str, Tensor]:
    """Return the tensors of the adapters that are modules of a layer."""
    state = model.get_submodule(name).state_dict()
    return {f"{name}.{key}": tensor.clone() for key, tensor in state.items() if "." in key}


def masked_layers(model: Model) -> dict[str, MaskedLinear]:
    """Return a model's masked layers by name."""
    return {name: layer for name, layer in layers_of(model) if isinstance(layer, MaskedLinear)}


def _smallest(layer: MaskedLinear, allow_dense: bool) -> LinearKind:
    """Return the kind that stores a masked layer in the fewest bytes."""
    candidates: list[LinearKind] = [Sparse(nonzero=int(layer.weight.count_nonzero()))]
    if layer.in_features % 4 == 0:
        fours = layer.weight.view(layer.out_features, -1, 4)
        if int((fours != 0).sum(-1).max()) <= 2:
            candidates.append(TwoFour())
    if allow_dense:
        candidates.append(Dense())
    shape = layer.out_features, layer.in_features
    itemsize = layer.weight.element_size()
    # Of equal sizes the last one: 2:4 is what graphics cards multiply.
    candidates.reverse()
    return min(candidates, key=lambda kind: kind.stored_bytes(*shape, itemsize))


def check_masked(config: Architecture) -> None:
    """Raise RequestError for a model of which no matrix is masked."""
    if not any(isinstance(kind_of(config, name), Masked) for name in linear_names(config)):
        raise RequestError(
            "pack: the model has no masks, so nothing of it is pruned; prune it first (flyweight "
            "prune)"
        )


def packing_facts(before: Model, after: Model) -> dict[str, Any]:
    """Return the bytes of the matrices that were masked: dense, packed and at their entropy.

    `entropy_bytes` is what a coder with one model a matrix needs: the entropy of which places are
    not zero, and that of each byte of the numbers.
    """
    sizes = {"dense_bytes": 0, "packed_bytes": 0, "entropy_bytes": 0}
    packed = dict(layers_of(after))
    for name, layer in masked_layers(before).items():
        sizes["dense_bytes"] += layer.weight.nbytes
        kind, shape = packed[name].kind, (layer.out_features, layer.in_features)
        sizes["packed_bytes"] += kind.stored_bytes(*shape, layer.weight.element_size())
        sizes["entropy_bytes"] += math.ceil(_entropy_bits(layer.weight) / 8)
    return sizes


def _entropy_bits(weight: Tensor) -> float:
    """Return the bits of a matrix: of its zeros' places, and of each byte of the other numbers."""
    values = weight[weight != 0]
    total, count = weight.numel(), values.numel()
    places = torch.tensor([count, total - count])
    whole = values.contiguous().view(torch.uint8).view(-1, weight.element_size())  # (count, bytes)
    planes = [torch.bincount(plane.int(), minlength=256) for plane in whole.T]
    return sum(_entropy(counts) for counts in (places, *planes))


def _entropy(counts: Tensor) -> float:
    """Return the bits of symbols that occur so often (K,), by their zero-order entropy."""
    present = counts[counts > 0].double()
    return float(-(present * (present / present.sum()).log2()).sum())


class PackStage(Stage[Pack]):
    """The same model without the zeros of its pruned matrices."""

    def run(self, config: Pack, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Write the smaller `model/`; the facts have what it saves."""
        source = inputs.model("input")
        model = load_any.decoder(source, what=f"stages.{inputs.name}.input")
        packed = pack(model, config.keep)
        write_model(packed, source, draft)
        return {
            **inherited(inputs),
            **sparsity_facts(packed, set(masked_layers(model))),
            **packing_facts(model, packed),
        }

    def plan(self, config: Pack, inputs: PlannedInputs) -> Outline:
        """Return the model where the config alone tells it: that of a pattern."""
        source = inputs.models.get("input")
        if source is None:
            return Outline()
        check_masked(source)
        masked = [kind for kind in source.linears.values() if isinstance(kind, Masked)]
        if any(kind.pattern is None for kind in masked):
            return Outline(notes=("its bytes are known once it has run: they follow its zeros",))
        linears = {
            pattern: TwoFour() if isinstance(kind, Masked) else kind
            for pattern, kind in source.linears.items()
        }
        return Outline(source.model_copy(update={"linears": linears}))
