"""Linear layers by kind: each multiplies, looks up rows, and knows its dense weight and its stored size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.schema import Architecture, Dense, LinearKind, ModelConfig
from flyweight.model.linear_quant import Int8Linear, NF4Linear
from flyweight.spec.linears import kind_of


class Linear(nn.Linear):
    """A float matrix (out, in) with an optional bias; as an embedding, its rows are the vectors.

    It is an `nn.Linear` for libraries that look for one (peft puts its adapters around it), but
    starts uninitialised.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.kind = in_features, out_features, kind or Dense()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))  # (out, in)
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b: (..., in) -> (..., out)."""
        return F.linear(input, self.weight, self.bias)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        return F.embedding(index, self.weight)

    def dense(self) -> Tensor:
        """Return the weight (out, in) itself, so that gradients reach it."""
        return self.weight

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

    def stored_bytes(self) -> int:
        """Return the bytes that the weight and the bias take in memory and on disk."""
        return sum(tensor.nbytes for tensor in (self.weight, self.bias) if tensor is not None)

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def build(kind: LinearKind, in_features: int, out_features: int, bias: bool) -> AnyLinear:
    """Return an uninitialised layer of this kind."""
    return KINDS[kind.kind](in_features, out_features, bias, kind)


def named(
    config: Architecture, name: str, in_features: int, out_features: int, bias: bool = False
) -> AnyLinear:
    """Return the uninitialised layer `name` of a model, of the kind that the config gives it."""
    return build(kind_of(config, name), in_features, out_features, bias)


class Factored(nn.Module):
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
        self.reduce = named(config, f"{name}.reduce", in_features, rank)
        self.expand = named(config, f"{name}.expand", rank, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with both: (..., in) -> (..., out)."""
        return self.expand(self.reduce(x))


def through(
    config: ModelConfig,
    name: str,
    in_features: int,
    out_features: int,
    bias: bool,
    rank: int | None,
) -> AnyLinear | Factored:
    """Return the uninitialised layer `name`, or two of them with a bottleneck of `rank` channels between."""
    if rank is None:
        return named(config, name, in_features, out_features, bias)
    return Factored(config, name, in_features, out_features, bias, rank)


AnyLinear = Linear | Int8Linear | NF4Linear
KINDS: dict[str, type[AnyLinear]] = {"dense": Linear, "int8": Int8Linear, "nf4": NF4Linear}
