"""Adapters: small trained parts around a model's layers; but for one, fresh they change nothing.

LoRA and IA3 are around linear layers of any kind, a bottleneck is behind a branch of a block, and a
prefix is beside what attention reads, or in front of it: a fresh one there is no identity.
`install` puts those of a config into a decoder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.adapters import Bottleneck, Ia3, Lora, Prefix
from flyweight.config.schema import ModelConfig
from flyweight.config.sparse_kinds import mask_bytes
from flyweight.model.dropout import dropout
from flyweight.model.linear_layer import LinearLayer, holds_data, normal
from flyweight.model.masked import kept, pack_bits
from flyweight.spec.adapters import Site, site_layers, sites

Matrix = tuple[Tensor, Tensor | None]
"""A weight (out, in) and a bias (out)."""


class Read(NamedTuple):
    """What a linear layer's adapters are given beside its input.

    `use` counts the visits of its block. `low` (..., r) is what a joint LoRA has made of the input
    already, where it has.
    """

    use: int = 0
    low: Tensor | None = None


FIRST = Read()


class LayerAdapter(ABC):
    """An adapter around one linear layer: how it multiplies, and what it makes of the matrix."""

    @abstractmethod
    def around(
        self, inner: Callable[[Tensor], Tensor], x: Tensor, layer: LinearLayer, read: Read
    ) -> Tensor:
        """Return the adapted product of x (..., in): (..., out).

        `inner` is the layer with the adapters before this one.
        """

    @abstractmethod
    def folded(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        """Return the matrix (out, in) and the bias that a layer with the adapter stands for.

        An adapter with copies for visits has no such matrix.
        """


def multiply(layer: LinearLayer, x: Tensor, read: Read = FIRST) -> Tensor:
    """Return what a layer with its adapters makes of x: (..., in) -> (..., out).

    A library may have put a layer of its own around it, as peft does: ours are around that one.
    """
    if getattr(layer, "adapters", None) == ():  # nearly always, and for every matrix of every token
        return layer(x)
    own = layer if isinstance(layer, LinearLayer) else getattr(layer, "base_layer", None)
    if not isinstance(own, LinearLayer) or not own.adapters:
        return layer(x)
    return _through(layer, own, own.adapters, x, read)


def _through(
    multiplied: Callable[[Tensor], Tensor],
    layer: LinearLayer,
    adapters: tuple[LayerAdapter, ...],
    x: Tensor,
    read: Read,
) -> Tensor:
    if not adapters:
        return multiplied(x)
    *before, last = adapters

    def inner(y: Tensor) -> Tensor:
        return _through(multiplied, layer, tuple(before), y, read)

    return last.around(inner, x, layer, read)


class LoraAdapter(nn.Module):
    """The two thin matrices of one or several layers with the same input, A (r, in), B (out, r).

    With `copies` each of its tensors has one more dimension in front, a place for each visit.
    """

    magnitude: nn.Parameter | None
    a_mask: Tensor | None
    b_mask: Tensor | None

    def __init__(self, config: Lora, site: Site) -> None:
        super().__init__()
        self.dropout = dropout(config.dropout)
        self.factor = config.factor
        self.copies = site.copies
        self.a = _parameter(site, config.r, site.reads)
        self.b = _parameter(site, site.writes, config.r)
        magnitude = _parameter(site, site.writes) if config.dora else None
        self.register_parameter("magnitude", magnitude)
        for name, tensor in (("a_mask", self.a), ("b_mask", self.b)):
            mask = None
            if config.masked:
                shape = (*tensor.shape[:-1], mask_bytes(tensor.shape[-1]))
                mask = torch.empty(shape, dtype=torch.uint8)
            self.register_buffer(name, mask)

    @property
    def masked(self) -> bool:
        """Whether it was pruned."""
        return self.a_mask is not None

    def part_a(self, use: int) -> Tensor:
        """Return A (r, in) as a visit uses it, with zeros where it is pruned."""
        whole = self.a if self.a_mask is None else kept(self.a, self.a_mask)
        return _copy(self, whole, use)

    def part_b(self, use: int) -> Tensor:
        """Return B (out, r) as a visit uses it, with zeros where it is pruned."""
        whole = self.b if self.b_mask is None else kept(self.b, self.b_mask)
        return _copy(self, whole, use)

    def masks(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield A and B with their masks, where they are pruned."""
        if self.a_mask is not None and self.b_mask is not None:
            yield self.a, self.a_mask
            yield self.b, self.b_mask

    def reduced(self, x: Tensor, use: int) -> Tensor:
        """Return s A x: (..., in) -> (..., r)."""
        if self.dropout is not None:
            x = self.dropout(x)
        return F.linear(x, self.part_a(use)) * self.factor

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw A uniformly as torch draws a matrix, and set B to zero."""
        bound = 1 / math.sqrt(self.a.shape[-1])
        if holds_data(self.a):
            drawn = torch.empty(self.a.shape, device="cpu")
            self.a.copy_(drawn.uniform_(-bound, bound, generator=generator))
        self.b.zero_()
        for tensor, mask in self.masks():
            if holds_data(mask):
                mask.copy_(pack_bits(torch.ones_like(tensor, dtype=torch.bool)))


class JointLora(nn.Module):
    """The place of a LoRA that several layers share."""

    def __init__(self, lora: LoraAdapter) -> None:
        super().__init__()
        self.lora = lora


@dataclass(frozen=True)
class LoraPart(LayerAdapter):
    """The rows of a LoRA that belong to one layer."""

    lora: LoraAdapter
    rows: slice
    joint: bool = False

    def around(
        self, inner: Callable[[Tensor], Tensor], x: Tensor, layer: LinearLayer, read: Read
    ) -> Tensor:
        """Return W x + b + s B A x, with rows at their learned lengths where there are such."""
        lora = self.lora
        y = inner(x)
        low = read.low if self.joint else None
        if low is None:
            low = lora.reduced(x, read.use)
        delta = F.linear(low, lora.part_b(read.use)[self.rows])
        if lora.magnitude is None:
            return y + delta
        share = self._stretch(layer.dense(), read.use)  # (out,)
        plain = y if layer.bias is None else y - layer.bias.to(y.dtype)
        return y + (share - 1).to(y.dtype) * plain + share.to(y.dtype) * delta

    def folded(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        """Return W + s B A, with rows at their learned lengths where there are such."""
        summed = weight + self.delta(0).to(weight.dtype)
        if self.lora.magnitude is not None:
            summed = self._stretch(weight, 0).to(weight.dtype)[:, None] * summed
        return summed, bias

    def matrices(self, use: int) -> tuple[Tensor, Tensor]:
        """Return s A (r, in) and B (out, r)."""
        return self.lora.factor * self.lora.part_a(use), self.lora.part_b(use)[self.rows]

    def delta(self, use: int) -> Tensor:
        """Return s B A (out, in)."""
        b = self.lora.part_b(use)[self.rows]
        return self.lora.factor * (b @ self.lora.part_a(use))

    @torch.no_grad()
    def lengths(self, weight: Tensor, use: int) -> Tensor:
        """Return the length of each row of W + s B A: (out,)."""
        summed = weight.float() + self.delta(use).float()
        return summed.norm(dim=1).to(self.lora.b.dtype)

    def _stretch(self, weight: Tensor, use: int) -> Tensor:
        """Return what each row is multiplied by (out,).

        The rows' own lengths count as constants in the backward pass (Liu et al. 2024, section
        4.3).
        """
        assert self.lora.magnitude is not None
        magnitude = _copy(self.lora, self.lora.magnitude, use)[self.rows]
        return magnitude / self.lengths(weight, use)


class Ia3Adapter(nn.Module):
    """A factor for each channel that a layer puts out, or reads."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.copies = site.copies
        self.scales_input = site.scales_input
        self.scale = _parameter(site, site.reads if site.scales_input else site.writes)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Set every factor to one; nothing is drawn."""
        self.scale.fill_(1.0)


@dataclass(frozen=True)
class Ia3Part(LayerAdapter):
    """An IA3 around its layer."""

    ia3: Ia3Adapter

    def around(
        self, inner: Callable[[Tensor], Tensor], x: Tensor, layer: LinearLayer, read: Read
    ) -> Tensor:
        """Return the product with its output scaled, or with its input scaled."""
        scale = _copy(self.ia3, self.ia3.scale, read.use)
        if self.ia3.scales_input:
            return inner(x * scale.to(x.dtype))
        y = inner(x)
        return y * scale.to(y.dtype)

    def folded(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        """Return the matrix with its columns scaled, or with its rows and the bias scaled."""
        scale = self.ia3.scale.to(weight.dtype)
        if self.ia3.scales_input:
            return weight * scale, bias
        return scale[:, None] * weight, None if bias is None else scale * bias


class BottleneckAdapter(nn.Module):
    """branch + up(activation(down(branch))), with `up` at zero in the beginning."""

    def __init__(self, config: Bottleneck, site: Site) -> None:
        super().__init__()
        self.copies = site.copies
        self.activation = ACTIVATIONS[config.activation]
        self.down = _parameter(site, config.dim, site.width)
        self.down_bias = _parameter(site, config.dim)
        self.up = _parameter(site, site.width, config.dim)
        self.up_bias = _parameter(site, site.width)

    def forward(self, branch: Tensor, use: int) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        down, down_bias = _copy(self, self.down, use), _copy(self, self.down_bias, use)
        up, up_bias = _copy(self, self.up, use), _copy(self, self.up_bias, use)
        inner = self.activation(F.linear(branch, down, down_bias))  # (B, T, bottleneck)
        return branch + F.linear(inner, up, up_bias)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw `down` from a normal distribution of std 0.02; everything else is zero."""
        self.down.copy_(normal(self.down, 0.02, generator))
        for parameter in (self.down_bias, self.up, self.up_bias):
            parameter.zero_()


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class PrefixAdapter(nn.Module):
    """Keys and values that every query reads beside the text, or, `shared`, in front of it.

    Beside the text they have a softmax of their own.
    """

    def __init__(self, config: Prefix, site: Site, kv_heads: int) -> None:
        super().__init__()
        self.copies = site.copies
        self.kv_heads = kv_heads
        self.shared = config.softmax == "shared"
        self.keys = _parameter(site, config.length, site.width)
        self.values = _parameter(site, config.length, site.width)

    def forward(self, q: Tensor, use: int) -> Tensor:
        """Return what queries (B, H, T, D), not rotated, read of the prefix: (B, H, T, D)."""
        keys, values = self.in_front(q, use)
        return F.scaled_dot_product_attention(
            q, keys, values, enable_gqa=q.shape[1] != self.kv_heads
        )

    def in_front(self, like: Tensor, use: int) -> tuple[Tensor, Tensor]:
        """Return keys and values for each row of `like` (B, ...): (B, H_kv, length, D) each."""
        return self._heads(self.keys, like, use), self._heads(self.values, like, use)

    def _heads(self, rows: Tensor, like: Tensor, use: int) -> Tensor:
        rows = _copy(self, rows, use).to(like.dtype)
        heads = rows.view(len(rows), self.kv_heads, -1).transpose(0, 1)  # (H_kv, length, D)
        return heads.expand(like.shape[0], -1, -1, -1)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the keys from a normal distribution, so that they differ; the values are zero.

        In the text's softmax that would be no identity either: there the values are drawn as the
        keys are, with std 1 as peft does.
        """
        self.keys.copy_(normal(self.keys, 1.0, generator))
        if self.shared:
            self.values.copy_(normal(self.values, 1.0, generator))
        else:
            self.values.zero_()


AnyAdapter = LoraAdapter | Ia3Adapter | BottleneckAdapter | PrefixAdapter


def install(model: nn.Module, config: ModelConfig) -> None:
    """Put the adapters of a resolved config into its decoder; their values are still open."""
    for site in sites(config):
        adapter = site.adapter
        place = model.get_submodule(f"blocks.{site.block}")
        match adapter:
            case Lora():
                _install_lora(model, site, LoraAdapter(adapter, site))
            case Ia3():
                layer = _layer(model, site.name)
                layer.ia3 = Ia3Adapter(site)
                layer.adapters = (*layer.adapters, Ia3Part(layer.ia3))
            case Bottleneck():
                setattr(place, site.name.rpartition(".")[2], BottleneckAdapter(adapter, site))
            case Prefix():
                heads = config.layer(site.block).attention.kv_heads or 1
                place.get_submodule("attention").prefix = PrefixAdapter(adapter, site, heads)


def _install_lora(model: nn.Module, site: Site, lora: LoraAdapter) -> None:
    if site.joint:
        parent, _, name = site.name.rpartition(".")
        setattr(model.get_submodule(parent), name, JointLora(lora))
    else:
        _layer(model, site.name).lora = lora
    for name, part in lora_parts(site, lora).items():
        layer = _layer(model, name)
        layer.adapters = (*layer.adapters, part)


def lora_parts(site: Site, lora: LoraAdapter) -> dict[str, LoraPart]:
    """Return the part of a LoRA that each layer of its site has, by the layer's full name."""
    parts = dict[str, LoraPart]()
    start = 0
    for name, shape in zip(site_layers(site), site.layers, strict=True):
        parts[name] = LoraPart(lora, slice(start, start + shape.out), site.joint)
        start += shape.out
    return parts


@torch.no_grad()
def reset_adapters(model: nn.Module, chosen: tuple[Site, ...], seed: int) -> None:
    """Give the adapters of some sites their first values, with which most change nothing.

    Values are drawn on the CPU; the lengths of DoRA are those of the layers' rows as they are.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for site in chosen:
        adapter = adapter_at(model, site)
        adapter.reset(generator)
        if isinstance(adapter, LoraAdapter) and adapter.magnitude is not None:
            for name, part in lora_parts(site, adapter).items():
                lengths = part.lengths(_layer(model, name).dense(), 0)
                adapter.magnitude[..., part.rows] = lengths


def adapter_at(model: nn.Module, site: Site) -> AnyAdapter:
    """Return the module of an adapter."""
    suffix = {"lora": ".lora", "ia3": ".ia3", "prefix": ".prefix"}.get(site.adapter.kind, "")
    module = model.get_submodule(f"{site.name}{suffix}")
    assert isinstance(module, AnyAdapter)
    return module


def _layer(model: nn.Module, name: str) -> LinearLayer:
    layer = model.get_submodule(name)
    assert isinstance(layer, LinearLayer)
    return layer


def _parameter(site: Site, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape if site.copies is None else (site.copies, *shape)))


def _copy(adapter: AnyAdapter, tensor: Tensor, use: int) -> Tensor:
    """Return the part of a tensor that a visit uses."""
    return tensor if adapter.copies is None else tensor[use]
