"""The parts of a trained decoder that a smaller one can be made of: heads, MLP channels, layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder


@dataclass(frozen=True)
class Scores:
    """How important the parts of each layer are.

    `groups` (layers, kv_heads) are heads that share keys and values, `channels` (layers, hidden)
    those of the MLP, `layers` (layers,) whole layers.
    """

    groups: Tensor
    channels: Tensor
    layers: Tensor


def part_scores(model: Decoder, value: Callable[[Tensor], Tensor]) -> Scores:
    """Return the sums of a value of each weight of what writes into the residual stream.

    Heads of layers that mix their values with the first layer's are the same in all layers.
    """
    config = model.config
    outs, downs = list[Tensor](), list[Tensor]()
    for out, down in writers(model):
        outs.append(value(out).sum(0).cpu())  # (heads * head_dim,)
        downs.append(value(down).sum(0).cpu())  # (hidden,)
    attention, mlp = torch.stack(outs), torch.stack(downs)
    groups = attention.unflatten(1, (config.attention.kv_heads or 0, -1)).sum(-1)
    if config.attention.value_residual:
        groups = groups.mean(0, keepdim=True).expand_as(groups)
    return Scores(groups, mlp, attention.sum(1) + mlp.sum(1))


def writers(model: Decoder) -> list[tuple[Tensor, Tensor]]:
    """Return, of each layer, the matrices whose columns read its heads and its channels."""
    down = "mlp.down.weight" if model.config.mlp.rank is None else "mlp.down.reduce.weight"
    return [
        (
            model.get_parameter(f"blocks.{layer}.attention.out.weight"),
            model.get_parameter(f"blocks.{layer}.{down}"),
        )
        for layer in range(model.config.layers)
    ]


Cut = tuple[int, Tensor]
"""A dimension of a tensor, and the places of it that stay."""


def cuts(config: ModelConfig, groups: Tensor, shared: int, channels: Tensor) -> Mapping[str, Cut]:
    """Return what of each tensor of a block stays, by its name in the block."""
    size = config.attention.head_dim or 0
    heads = spread(groups, shared)
    queries, keys = spread(heads, size), spread(groups, size)
    low = config.mlp.rank is not None
    expand, reduce = (".expand", ".reduce") if low else ("", "")
    found: dict[str, Cut] = {"attention.gain": (0, heads), "attention.out.weight": (1, queries)}
    found["attention.gate.weight"] = (0, heads)
    for end in ("weight", "bias"):
        found[f"attention.q.{end}"] = (0, queries)
        found[f"attention.k.{end}"] = found[f"attention.v.{end}"] = (0, keys)
        found[f"mlp.up{expand}.{end}"] = found[f"mlp.gate{expand}.{end}"] = (0, channels)
    found[f"mlp.down{reduce}.weight"] = (1, channels)
    return found


def spread(places: Tensor, size: int) -> Tensor:
    """Return the rows of parts of `size` rows each, at these places: (n,) -> (n * size,)."""
    return (places[:, None] * size + torch.arange(size)).flatten()


def cut_out(tensor: Tensor, cut: Cut | None) -> Tensor:
    """Return the places of a tensor that stay: all of them without a cut."""
    if cut is None:
        return tensor
    dimension, places = cut
    return tensor.index_select(dimension, places.to(tensor.device))


def best(scores: Tensor, count: int) -> list[int]:
    """Return the places of the highest scores (n,), in their order."""
    return sorted(scores.topk(count).indices.tolist())
