"""The first weights of a student that are parts of its teacher's: layers, heads, channels, widths.

A tensor of the student is cut out of the teacher's of the same name. Where the MLP of the student
has a low rank and the teacher's has none, it gets the two factors of the best approximation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flyweight.config.schema import ModelConfig, Rope
from flyweight.model.decoder import Decoder
from flyweight.model.parts import best, cut_out, cuts, part_scores, writers


@dataclass(frozen=True)
class Taken:
    """The names of a student's tensors that come from its teacher, and of those that do not."""

    copied: tuple[str, ...]
    new: tuple[str, ...]


@torch.no_grad()
def take_from_teacher(
    student: Decoder,
    teacher: Decoder,
    layers: tuple[int, ...],
    width: Literal["first", "norm"],
) -> Taken:
    """Overwrite a student's weights with parts of its teacher's, and return which they are.

    Student layer i is teacher layer `layers[i]`. Of what the student has fewer, it gets the first
    ones, or those of the largest norm. The configs have to fit (`spec.teacher_start`).
    """
    own, found = student.state_dict(), dict[str, Tensor]()
    for name, tensor in _parts(student.config, teacher, layers, width):
        if name in own and own[name].shape == tensor.shape:
            found[name] = tensor.to(own[name])
    for name, tensor in found.items():
        own[name].copy_(tensor)
    return Taken(tuple(found), tuple(name for name in own if name not in found))


def _parts(
    config: ModelConfig, teacher: Decoder, layers: tuple[int, ...], width: Literal["first", "norm"]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a teacher has for a student of this config, by the student's names."""
    before, state = teacher.config, teacher.state_dict()
    assert config.attention.kv_heads and before.attention.kv_heads and config.attention.heads
    ranked = width == "norm"
    stream = _largest(_stream_scores(teacher), config.dim, ranked)
    scores = part_scores(teacher, lambda weight: weight.float().square())
    table = state["embedding.tokens.weight"]
    if not config.embedding.tied and before.embedding.tied:
        yield "head.linear.weight", table[:, stream]
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            yield name, _in_stream(name, tensor, stream)[: _rows(name, config)]
    for place, layer in enumerate(layers):
        groups = _largest(scores.groups[layer], config.attention.kv_heads, ranked)
        shared = config.attention.heads // config.attention.kv_heads
        channels = _largest(scores.channels[layer], config.mlp.width(config.dim), ranked)
        found = cuts(before, groups, shared, channels)
        prefix = f"blocks.{layer}."
        block = {
            name.removeprefix(prefix): _in_stream(
                name, cut_out(tensor, found.get(name.removeprefix(prefix))), stream
            )
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        for name, tensor in _low_rank(_narrow_heads(block, config, before), config):
            yield f"blocks.{place}.{name}", tensor


def _largest(scores: Tensor, count: int, ranked: bool) -> Tensor:
    """Return the places of the highest of scores (n,), or the first ones."""
    return torch.tensor(best(scores, count)) if ranked else torch.arange(count)


def _stream_scores(teacher: Decoder) -> Tensor:
    """Return the squares (dim,) of all that writes each number of the residual stream."""
    total = teacher.get_parameter("embedding.tokens.weight").float().square().sum(0)
    for out, down in writers(teacher):
        rows = [out] if down.shape[0] != total.shape[0] else [out, down]
        for weight in rows:
            total = total + weight.float().square().sum(1)
    return total.cpu()


READS_STREAM = (
    *("attention.q.", "attention.k.", "attention.v.", "attention.gate."),
    *("mlp.up.", "mlp.gate."),
)
"""Matrices of a block whose columns are numbers of the residual stream; of others it is rows."""


def _in_stream(name: str, tensor: Tensor, stream: Tensor) -> Tensor:
    """Return the part of a tensor that reads or writes these numbers of the residual stream."""
    matrix = tensor.ndim == 2
    if not name.startswith("blocks."):
        if matrix:
            return tensor[:, stream]
        return tensor[stream] if name.startswith("norm.") else tensor
    inner = name.split(".", 2)[2]
    if inner.startswith(READS_STREAM):
        reads = matrix and not inner.endswith(".expand.weight")
        return tensor[:, stream] if reads else tensor
    if inner.startswith(("attention.out.", "mlp.down.")):
        return tensor if inner.endswith(".reduce.weight") else tensor[stream]
    if "_norm." in inner and not inner.startswith("attention."):
        return tensor[stream]
    return tensor


def _rows(name: str, config: ModelConfig) -> int | None:
    """Return how many rows of a table the student has, where that may be fewer."""
    return config.context if name == "embedding.positions.weight" else None


def _narrow_heads(
    block: dict[str, Tensor], config: ModelConfig, before: ModelConfig
) -> dict[str, Tensor]:
    """Return a block's tensors with as many numbers a head as the student has."""
    size, ours = before.attention.head_dim or 0, config.attention.head_dim or 0
    if size == ours:
        return block
    places = head_places(size, ours, isinstance(config.position, Rope))
    narrowed = dict(block)
    for name, tensor in block.items():
        if name.startswith(("attention.q.", "attention.k.", "attention.v.")):
            heads = torch.arange(tensor.shape[0] // size)
            narrowed[name] = tensor[(heads[:, None] * size + places).flatten()]
        elif name == "attention.out.weight":
            heads = torch.arange(tensor.shape[1] // size)
            narrowed[name] = tensor[:, (heads[:, None] * size + places).flatten()]
        elif name.startswith(("attention.q_norm.", "attention.k_norm.")):
            narrowed[name] = tensor[places]
    return narrowed


def head_places(size: int, ours: int, rotary: bool) -> Tensor:
    """Return which of a head's `size` numbers a head of `ours` takes, (ours,).

    With rotary positions these are pairs whose angles are those of the smaller head: every
    (size / ours)-th of them. Otherwise they are the first.
    """
    if not rotary:
        return torch.arange(ours)
    pairs = torch.arange(ours // 2) * (size // ours)
    return torch.cat((pairs, pairs + size // 2))


def _low_rank(block: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield a block's tensors, those of its MLP as two factors where the student has a low rank."""
    rank = config.mlp.rank
    for name, tensor in block.items():
        whole = name in ("mlp.up.weight", "mlp.gate.weight", "mlp.down.weight")
        if rank is None or not whole:
            yield name, tensor
            continue
        left, sizes, right = torch.linalg.svd(tensor.float(), full_matrices=False)
        root = sizes[:rank].sqrt()
        matrix = name.removesuffix(".weight")
        yield f"{matrix}.expand.weight", left[:, :rank] * root
        yield f"{matrix}.reduce.weight", root[:, None] * right[:rank]
