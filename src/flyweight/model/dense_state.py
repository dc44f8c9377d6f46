"""A model's tensors with its pruned matrices written out as the float matrices that they are."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.config.baselines import Architecture
from flyweight.config.linear_kinds import Dense, LinearKind
from flyweight.model.build import Model
from flyweight.model.linear_layer import layers_of


def written_out(kind: LinearKind) -> bool:
    """Return whether a kind stands for a float matrix to the bit, and is not one itself."""
    return kind.lossless and not kind.plain


@torch.no_grad()
def dense_state(model: Model) -> dict[str, Tensor]:
    """Return a model's state with masked, sparse and two_four matrices dense, zeros among them.

    It is the state of a model of `dense_config`. Other tensors are the model's own.
    """
    state = model.state_dict()
    for name, layer in layers_of(model):
        if not written_out(layer.kind):
            continue
        for tensor in layer.kind.tensors(layer.out_features, layer.in_features):
            del state[f"{name}.{tensor.name}"]
        state[f"{name}.weight"] = layer.dense().detach()
    return state


def dense_config(config: Architecture) -> Architecture:
    """Return a config whose masked, sparse and two_four matrices are dense."""
    linears = {
        pattern: Dense() if written_out(kind) else kind for pattern, kind in config.linears.items()
    }
    if all(kind.plain for kind in linears.values()):
        linears = {}
    return config.model_copy(update={"linears": linears})


def zeros_note(config: Architecture) -> list[str]:
    """Return what an export of a pruned model says of its zeros; nothing for other models."""
    kinds = dict.fromkeys(kind.label for kind in config.linears.values() if written_out(kind))
    if not kinds:
        return []
    return [
        f"its pruned matrices ({' and '.join(kinds)}) are written whole, zeros among them: the "
        f"file is no smaller than that of the dense model, and training it elsewhere fills the "
        f"zeros"
    ]
