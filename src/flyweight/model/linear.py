"""Linear layers: the dense one, the registry by kind, and what builds a model's layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.linear_kinds import (
    NF4,
    Dense,
    Int3,
    Int4,
    Int8,
    Int8Dynamic,
    LinearKind,
    register_kind,
)
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.config.sparse_kinds import Masked, Sparse, TwoFour
from flyweight.model import kernels
from flyweight.model.adapters import FIRST, Read, multiply
from flyweight.model.kernels import Stored
from flyweight.model.linear_dynamic import Int8DynamicLinear
from flyweight.model.linear_grouped import Int3Linear, Int4Linear
from flyweight.model.linear_layer import LinearLayer, normal
from flyweight.model.linear_quant import Int8Linear, NF4Linear
from flyweight.model.masked import MaskedLinear
from flyweight.model.sparse import SparseLinear, TwoFourLinear
from flyweight.spec.linears import kind_of


class Linear(nn.Linear, LinearLayer):
    """A float matrix (out, in) with an optional bias; as an embedding, its rows are the vectors.

    It is an `nn.Linear` for libraries that look for one (peft puts its adapters around it), but
    starts uninitialised.
    """

    rows_apart = 1
    rounding: Callable[[Tensor], Tensor] | None = None
    """What training sees of the weight (out, in), where it is trained to be rounded."""

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
        self.kind = kind or Dense()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))  # (out, in)
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b: (..., in) -> (..., out)."""
        engine = kernels.active() if self.rounding is None else None
        if engine is not None and (product := engine.product(self, input)) is not None:
            return product
        return F.linear(input, self.dense(), self.bias)

    def stored(self) -> Stored | None:
        """Return the matrix as the compiled products read it; None in float16 and float64."""
        return kernels.dense_stored(self.weight)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        return F.embedding(index, self.dense())

    def dense(self) -> Tensor:
        """Return the weight (out, in), rounded where training does so; gradients reach it."""
        return self.weight if self.rounding is None else self.rounding(self.weight)

    @torch.no_grad()
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw the weight from a normal distribution, and set the bias to zero."""
        self.weight.copy_(normal(self.weight, std, generator))
        if self.bias is not None:
            self.bias.zero_()

    @classmethod
    def from_dense(
        cls, weight: Tensor, bias: Tensor | None, kind: LinearKind | None = None
    ) -> Linear:
        """Return a layer with a copy of this weight (out, in) and bias (out)."""
        layer = cls(weight.shape[1], weight.shape[0], bias is not None, kind)
        layer.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        return layer

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


KINDS: dict[str, type[LinearLayer]] = {}
"""The class of the layers of each registered kind."""


def register_linear(config_class: type[LinearKind], layer_class: type[LinearLayer]) -> None:
    """Add a kind of linear layer: how it is written in a config, and what computes it.

    From then on configs can name it, models of it can be built, trained, saved and loaded, and
    `quantize` can make it. Register it in the module that defines `config_class`: other processes
    of flyweight import that module. Registering the same pair again changes nothing. Raises
    ValueError where the name is taken or the classes do not fit.
    """
    if not issubclass(layer_class, LinearLayer):
        raise ValueError(f"{layer_class.__name__}: derive the class of a layer from LinearLayer")
    name = register_kind(config_class)
    registered = KINDS.setdefault(name, layer_class)
    if registered is not layer_class:
        raise ValueError(f"{layer_class.__name__}: kind {name} is already {registered.__name__}")


register_linear(Dense, Linear)
register_linear(Int8, Int8Linear)
register_linear(Int8Dynamic, Int8DynamicLinear)
register_linear(NF4, NF4Linear)
register_linear(Int4, Int4Linear)
register_linear(Int3, Int3Linear)
register_linear(Masked, MaskedLinear)
register_linear(Sparse, SparseLinear)
register_linear(TwoFour, TwoFourLinear)


def build(kind: LinearKind, in_features: int, out_features: int, bias: bool) -> LinearLayer:
    """Return an uninitialised layer of this kind."""
    return KINDS[kind.kind](in_features, out_features, bias, kind)


def from_dense(kind: LinearKind, weight: Tensor, bias: Tensor | None) -> LinearLayer:
    """Return a layer of this kind that stands for this weight (out, in) and bias (out).

    Raises FlyweightError where the kind cannot hold them.
    """
    return KINDS[kind.kind].from_dense(weight, bias, kind)


def build_linear(
    config: Architecture, name: str, in_features: int, out_features: int, bias: bool = False
) -> LinearLayer:
    """Return the uninitialised layer `name` of a model, of the kind that the config gives it."""
    return build(kind_of(config, name), in_features, out_features, bias)


class LowRank(nn.Module):
    """Two matrices for one: `reduce` to `rank` channels, then `expand`, which has the bias."""

    def __init__(
        self,
        config: ModelConfig,
        name: str,
        in_features: int,
        out_features: int,
        bias: bool,
        rank: int,
    ) -> None:
        super().__init__()
        self.reduce = build_linear(config, f"{name}.reduce", in_features, rank)
        self.expand = build_linear(config, f"{name}.expand", rank, out_features, bias)

    def forward(self, x: Tensor, read: Read = FIRST) -> Tensor:
        """Return the product with both and their adapters: (..., in) -> (..., out)."""
        return multiply(self.expand, multiply(self.reduce, x, read), read)


def build_low_rank(
    config: ModelConfig,
    name: str,
    in_features: int,
    out_features: int,
    bias: bool,
    rank: int | None,
) -> LinearLayer | LowRank:
    """Return the uninitialised layer `name`, or two with a bottleneck of `rank` channels."""
    if rank is None:
        return build_linear(config, name, in_features, out_features, bias)
    return LowRank(config, name, in_features, out_features, bias, rank)
