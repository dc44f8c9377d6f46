"""Weights that are zero and stay zero: a float matrix with a bit for each of its numbers.

The matrix itself holds the zeros, so a product costs no more than a dense one. Gradients of pruned
numbers are zero, so that they count neither in the norm that is clipped nor in what an optimizer
remembers. `keep_masks` sets pruned numbers back to zero after every step: an optimizer may move a
number that has no gradient, as Muon does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.linear_kinds import LinearKind
from flyweight.config.sparse_kinds import Masked, mask_bytes
from flyweight.model import kernels
from flyweight.model.kernels import Stored
from flyweight.model.linear_layer import LinearLayer, holds_data, normal


def pack_bits(kept: Tensor) -> Tensor:
    """Return booleans (..., n) as bits, the first one the lowest: (..., bytes) of uint8."""
    padded = F.pad(kept, (0, -kept.shape[-1] % 8)).unflatten(-1, (-1, 8))
    places = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=kept.device)
    return (padded * places).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """Return the first `count` booleans of each row of bits: (..., bytes) -> (..., count)."""
    places = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (bits[..., None] & places).ne(0).flatten(-2)[..., :count]


def masked_tensor(mask: str) -> str:
    """Return the name of the tensor that a mask is of, by the mask's own name in a state.

    A layer's is `weight`, an adapter's is `a` or `b`.
    """
    layer = mask.removesuffix(".mask")
    return mask.removesuffix("_mask") if layer == mask else f"{layer}.weight"


class _Kept(torch.autograd.Function):
    """The weight itself, whose gradient is zero where the mask is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        grad = grad_outputs[0]
        return grad.masked_fill(~unpack_bits(mask, grad.shape[-1]), 0), None


def kept(weight: Tensor, mask: Tensor) -> Tensor:
    """Return a weight (..., n) that is zero where its mask of bits (..., bytes) is.

    Its gradient is zero there as well.
    """
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return weight
    result = _Kept.apply(weight, mask)
    assert isinstance(result, Tensor)
    return result


@runtime_checkable
class HasMasks(Protocol):
    """A module of which some parameters are pruned."""

    def masks(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each pruned parameter (..., n) and its mask of bits (..., bytes)."""
        ...


def masks_of(model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Yield every pruned parameter of a model and its mask."""
    for module in model.modules():
        if isinstance(module, HasMasks):
            yield from module.masks()


@torch.no_grad()
def apply_mask(weight: Tensor, mask: Tensor) -> None:
    """Set a weight (..., n) to zero where its mask of bits (..., bytes) is."""
    weight.masked_fill_(~unpack_bits(mask, weight.shape[-1]), 0)


def keep_masks(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let every step of an optimizer end with the model's pruned numbers at zero."""
    moved = {
        parameter: mask
        for parameter, mask in masks_of(model)
        if any(parameter is each for group in optimizer.param_groups for each in group["params"])
    }

    def apply(*_: object) -> None:
        for parameter, mask in moved.items():
            if parameter.grad is not None:
                apply_mask(parameter, mask)

    if moved:
        optimizer.register_step_post_hook(apply)


class MaskedLinear(LinearLayer):
    """A float matrix (out, in) with a mask of bits, and an optional bias; the matrix trains."""

    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.kind = kind or Masked()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))  # (out, in)
        bits = torch.empty(out_features, mask_bytes(in_features), dtype=torch.uint8)
        self.register_buffer("mask", bits)
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b: (..., in) -> (..., out)."""
        engine = kernels.active()
        if engine is not None and (product := engine.product(self, x)) is not None:
            return product
        return F.linear(x, self.dense(), self.bias)

    def stored(self) -> Stored | None:
        """Return the matrix, zeros and all, as the compiled products read it."""
        return kernels.dense_stored(self.weight)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        return F.embedding(index, self.dense())

    def dense(self) -> Tensor:
        """Return the weight (out, in) with its zeros; the others get gradients."""
        return kept(self.weight, self.mask)

    def masks(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield the weight and its mask."""
        yield self.weight, self.mask

    def kept(self) -> Tensor:
        """Return which numbers are not pruned: booleans (out, in)."""
        return unpack_bits(self.mask, self.in_features)

    @torch.no_grad()
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw the weight from a normal distribution; nothing is pruned, and the bias is zero."""
        self.weight.copy_(normal(self.weight, std, generator))
        if holds_data(self.mask):
            self.mask.copy_(pack_bits(torch.ones_like(self.weight, dtype=torch.bool)))
        if self.bias is not None:
            self.bias.zero_()

    @classmethod
    def from_dense(
        cls, weight: Tensor, bias: Tensor | None, kind: LinearKind | None = None
    ) -> MaskedLinear:
        """Return a layer with a copy of this weight (out, in), pruned where that is zero."""
        with torch.device(weight.device):
            layer = cls(weight.shape[1], weight.shape[0], bias is not None, kind)
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.mask = pack_bits(weight != 0)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        return layer

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def copy_masks(source: nn.Module, target: nn.Module) -> None:
    """Prune a model as another one of the same shape is pruned."""
    for (_, mask), (weight, own) in zip(masks_of(source), masks_of(target), strict=True):
        own.copy_(mask)
        apply_mask(weight, own)
