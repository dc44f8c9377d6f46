"""A kind of linear layer that holds another: frozen, with a trained scale for each row.

`{kind: scaled, base: nf4}` multiplies what an NF4 layer gives with one number for each output.
Importing this module registers the kind.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

import flyweight as fw
from flyweight.config.linear_kinds import Dense, Product, StoredTensor, frozen, held
from flyweight.model import linear


class Scaled(fw.LinearKind):
    """A frozen layer of the kind `base`, and a float for each of its outputs."""

    kind: Literal["scaled"] = "scaled"
    base: fw.LinearKind = Dense()

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the scales, which train, and the base's tensors, which do not."""
        scale = StoredTensor("scale", (out,), trains=True)
        return scale, *held(self.base.tensors(out, in_), "base", trains=False)

    def products(self, out: int, in_: int) -> tuple[Product, ...]:
        """Return the base's products."""
        return frozen(self.base.products(out, in_))

    def parameters(self, out: int, in_: int) -> int:
        """Return the base's parameters and the scales."""
        return self.base.parameters(out, in_) + out

    @property
    def label(self) -> str:
        """The name in tables and messages."""
        return f"scaled {self.base.label}"


class ScaledLinear(fw.LinearLayer):
    """(x W^T) * scale + b, where W is a frozen layer's."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: fw.LinearKind | None = None,
    ) -> None:
        nn.Module.__init__(self)
        assert isinstance(kind, Scaled)
        self.in_features = in_features
        self.out_features = out_features
        self.kind = kind
        self.scale = nn.Parameter(torch.empty(out_features))  # (out,)
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.base = linear.build(kind.base, in_features, out_features, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled product: (..., in) -> (..., out)."""
        y = self.base(x)
        y = y * self.scale.to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def rows(self, index: Tensor) -> Tensor:
        """Return scaled rows: (...) -> (..., in)."""
        return self.base.rows(index) * self.scale[index][..., None]

    def dense(self) -> Tensor:
        """Return the scaled weight (out, in)."""
        return self.base.dense() * self.scale[:, None]

    @torch.no_grad()
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw the base; scales are one at first."""
        self.base.reset(std, generator)
        self.scale.fill_(1.0)
        if self.bias is not None:
            self.bias.zero_()

    @classmethod
    def from_dense(
        cls, weight: Tensor, bias: Tensor | None, kind: fw.LinearKind | None = None
    ) -> ScaledLinear:
        """Return a layer whose base stands for this weight, and whose scales are one."""
        assert isinstance(kind, Scaled)
        layer = cls(weight.shape[1], weight.shape[0], bias is not None, kind)
        layer.base = linear.from_dense(kind.base, weight, None).requires_grad_(False)
        layer.scale = nn.Parameter(weight.new_ones(weight.shape[0]))
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        return layer


def register() -> None:
    """Add the kind; doing it again changes nothing."""
    fw.register_linear(Scaled, ScaledLinear)


register()  # here and not in the package alone: `bench` imports this module
