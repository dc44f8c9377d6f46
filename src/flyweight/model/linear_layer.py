"""What every linear layer does: multiply, look up rows, tell its weight and its bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from flyweight.config.linear_kinds import LinearKind
from flyweight.model.kernels import Stored


class LinearLayer(nn.Module, ABC):
    """A linear layer (out, in) of some kind, with an optional float bias (out).

    A kind that a package adds is a subclass. Its constructor takes (in_features, out_features,
    bias, kind) and leaves the values open. Its state holds the tensors that the kind's `tensors`
    lists, and `bias`. See docs/extending.md.
    """

    in_features: int
    out_features: int
    kind: LinearKind
    bias: nn.Parameter | None
    rows_apart: ClassVar[int | None] = None
    """A number of rows that, like its multiples, can be packed alone: the same as of the whole.

    None where rows belong together.
    """

    adapters: tuple[Any, ...] = ()
    """What is around the layer, the innermost first: each a `LayerAdapter` of `model.adapters`."""

    @abstractmethod
    def __init__(
        self, in_features: int, out_features: int, bias: bool, kind: LinearKind | None
    ) -> None: ...

    @abstractmethod
    def forward(self, x: Tensor, /) -> Tensor:
        """Return x W^T + b: (..., in) -> (..., out), differentiable with respect to `x`."""

    @abstractmethod
    def rows(self, index: Tensor) -> Tensor:
        """Return rows of the weight: (...) -> (..., in)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the float weight (out, in) that the layer stands for."""

    @abstractmethod
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw initial values from a normal distribution, on the CPU; do nothing without data.

        The bias becomes zero.
        """

    @classmethod
    @abstractmethod
    def from_dense(
        cls, weight: Tensor, bias: Tensor | None, kind: LinearKind | None = None
    ) -> Self:
        """Return a layer that stands for a copy of this weight (out, in) and bias (out).

        Raises FlyweightError where the weight is not finite and the kind cannot hold it.
        """

    def stored(self) -> Stored | None:
        """Return the matrix as the compiled products read it; None where they do not know it."""
        return None

    def stored_bytes(self) -> int:
        """Return the bytes that all tensors of the layer take in memory and on disk."""
        return sum(tensor.nbytes for tensor in (*self.buffers(), *self.parameters()))

    def method(self, dtype: torch.dtype) -> str:
        """Return the kind's label, and with it the kernel that multiplies inputs of `dtype`."""
        return self.kind.label


def layers_of(model: nn.Module) -> Iterator[tuple[str, LinearLayer]]:
    """Yield each linear layer of a model with its name, without those that another layer holds."""
    for name, module in model.named_children():
        if isinstance(module, LinearLayer):
            yield name, module
        else:
            yield from ((f"{name}.{inner}", layer) for inner, layer in layers_of(module))


def holds_data(tensor: Tensor) -> bool:
    """Return whether a tensor has values: not on the meta device, and not in a dry run."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def normal(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return normal values in the shape of a tensor, drawn on the CPU; zeros where it has none."""
    if not (std and holds_data(like)):
        return torch.zeros_like(like)
    return torch.empty(like.shape, device="cpu").normal_(0.0, std, generator=generator)
