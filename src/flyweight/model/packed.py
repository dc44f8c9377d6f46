"""What layers with packed weights share: products without a float copy, gradients, kernels.

Activations are rounded by no kind but `int8_dynamic`, which scales each token alone. torch's own
dynamically quantized products scale a whole batch by its largest value, so that a future token
would change what a past one sees. How a layer is multiplied is a visible choice, `Packed.kernel`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.linear_kinds import LinearKind
from flyweight.core.alike import alike
from flyweight.errors import FlyweightError
from flyweight.model import kernels
from flyweight.model.linear_layer import LinearLayer, holds_data, normal
from flyweight.model.precision import autocast_dtype, fast_dtype, without_autocast

REFERENCE = "reference"
_PIECE_CPU = 1 << 20
_PIECE_ELSEWHERE = 1 << 24


@dataclass(frozen=True)
class Kernel:
    """A way to multiply by packed weights, and why it is the one used.

    Without `multiply` it is the plain reference.
    """

    name: str
    reason: str
    multiply: Callable[[Tensor, Any], Tensor] | None = None
    most_rows: int | None = None


@dataclass(frozen=True)
class DeviceKernel:
    """A kernel that is faster on some device, and why it cannot be used for a dtype (or None)."""

    kernel: Kernel
    refusal: Callable[[torch.dtype], str | None]


class Packed(LinearLayer):
    """What all packed linear layers share: a weight (out, in) in buffers, an optional float bias.

    `dtype` is that of `rows` and `dense`; `.to(dtype)` changes it, and never the packed buffers.
    """

    default_kind: ClassVar[LinearKind]
    fast: ClassVar[Mapping[str, DeviceKernel]] = {}

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
        self.dtype = torch.get_default_dtype()
        self.kind = kind or self.default_kind
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @property
    def _stored(self) -> Tensor:
        """A packed tensor, which tells where the layer is."""
        return next(self.buffers())

    @abstractmethod
    def pack(self, weight: Tensor) -> None:
        """Store this weight (out, in) in the buffers.

        Raises FlyweightError for another shape or a value that is not finite.
        """

    @abstractmethod
    def kernel_mismatch(self) -> str | None:
        """Return why this layer's size or place in memory rules out the faster kernel, or None."""

    @abstractmethod
    def _part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return rows `start` to `stop` as floats, without `_factors`: (stop - start, in)."""

    def _factors(self, dtype: torch.dtype) -> Tensor | None:
        """Return what every output (out,) is still to be multiplied by."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b: (..., in) -> (..., out), differentiable with respect to `x` (and b)."""
        engine = kernels.active()
        if engine is not None and (product := engine.product(self, x)) is not None:
            return product
        dtype = autocast_dtype(x)
        x = x if x.dtype == dtype else x.to(dtype)
        with without_autocast(x):
            result = (
                _Product.apply(x, self)
                if torch.is_grad_enabled() and x.requires_grad
                else self.product(x)
            )
        assert isinstance(result, Tensor)
        return result if self.bias is None else result + self.bias.to(result.dtype)

    def dense(self) -> Tensor:
        """Return the weight (out, in) that the layer stands for, in float."""
        return self.rows(torch.arange(self.out_features, device=self._stored.device))

    @classmethod
    def from_dense(
        cls, weight: Tensor, bias: Tensor | None, kind: LinearKind | None = None
    ) -> Self:
        """Return a layer with this weight (out, in) packed and this bias (out), on its device."""
        with torch.device(weight.device):
            layer = cls(weight.shape[1], weight.shape[0], bias is not None, kind).to(weight.dtype)
        layer.pack(weight)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        return layer

    @classmethod
    def sample(cls, dtype: torch.dtype) -> Self:
        """Return a small layer, on which a faster kernel for inputs of `dtype` is tried."""
        return cls.from_dense(torch.arange(12.0 * 64).sin().view(12, 64), None)

    def kernel(self, dtype: torch.dtype) -> Kernel:
        """Return how inputs of this dtype are multiplied by this layer where it is now, and why."""
        if not holds_data(self._stored):
            return Kernel(REFERENCE, "there is nothing to multiply")
        chosen = choose_kernel(type(self), self._stored.device.type, dtype)
        if chosen.multiply and (reason := self.kernel_mismatch()):
            return Kernel(REFERENCE, reason)
        return chosen

    def method(self, dtype: torch.dtype) -> str:
        """Return the kind's label and the kernel that multiplies inputs of `dtype`."""
        return f"{self.kind.label} {self.kernel(dtype).name}"

    @torch.no_grad()
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw a weight from a normal distribution, pack it, and set the bias to zero."""
        if holds_data(self._stored):
            weight = torch.empty(self.out_features, self.in_features, device="cpu")
            self.pack(normal(weight, std, generator))
        if self.bias is not None:
            self.bias.zero_()

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    def reference(self, x: Tensor) -> Tensor:
        """Return x W^T by plain torch, a piece of W at a time: (N, in) -> (N, out).

        The dtype is the one that is best for x here.
        """
        dtype = fast_dtype(x)
        x, step = x if x.dtype == dtype else x.to(dtype), self._step(x)
        if step >= self.out_features:
            result = F.linear(x, self._part(0, self.out_features, dtype))
        else:
            result = x.new_empty(x.shape[0], self.out_features)
            for start, stop in self._row_blocks(step):
                result[:, start:stop] = F.linear(
                    x, self._part(start, stop, dtype)
                )  # (N, stop - start)
        factors = self._factors(dtype)
        return result if factors is None else result.mul_(factors)

    def transposed(self, grad: Tensor) -> Tensor:
        """Return grad W, the gradient to the input, a piece of W at a time: (N, n) -> (N, in).

        `grad` is that of the first n outputs, or of all; the others have none.
        """
        dtype, grad_dtype, outputs = fast_dtype(grad), grad.dtype, grad.shape[1]
        factors = self._factors(dtype)
        grad = grad.to(dtype) if factors is None else grad.to(dtype) * factors[:outputs]
        result = grad.new_zeros(grad.shape[0], self.in_features)
        for start, stop in self._row_blocks(self._step(grad), outputs):
            result.addmm_(grad[:, start:stop], self._part(start, stop, dtype))
        return result.to(grad_dtype)

    def product(self, x: Tensor) -> Tensor:
        """Return x W^T by this layer's kernel, without its bias: (..., in) -> (..., out).

        No float copy of W is made, and no gradient is kept.
        """
        flat, chosen = x.reshape(-1, self.in_features), self.kernel(x.dtype)  # (N, in)
        if chosen.multiply and 0 < flat.shape[0] <= (chosen.most_rows or flat.shape[0]):
            result = chosen.multiply(flat, self)
        else:
            result = self.reference(flat)
        result = result if result.dtype == x.dtype else result.to(x.dtype)
        return result.view(*x.shape[:-1], self.out_features)

    def _step(self, x: Tensor) -> int:
        """Return how many rows of W are unpacked at once.

        A CPU takes what its cache holds, a GPU enough work.
        """
        return max(
            1, (_PIECE_CPU if x.device.type == "cpu" else _PIECE_ELSEWHERE) // self.in_features
        )

    def _row_blocks(self, step: int, rows: int | None = None) -> Iterator[tuple[int, int]]:
        rows = self.out_features if rows is None else rows
        for start in alike(range(0, rows, step), enough=2):
            yield start, min(start + step, rows)

    def _sliced(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        return tensor if stop - start == self.out_features else tensor[start:stop]

    def checked(self, weight: Tensor) -> Tensor:
        """Return a weight (out, in) in float32, where the layer is.

        Raises FlyweightError for another shape or a value that is not finite.
        """
        expected = (self.out_features, self.in_features)
        if tuple(weight.shape) != expected:
            raise FlyweightError(
                f"weight: the shape is {tuple(weight.shape)} instead of {expected}"
            )
        if not torch.isfinite(weight).all():
            raise FlyweightError(
                "weight: it holds NaN or infinite values and cannot be quantized; train the "
                "model again"
            )
        return weight.detach().to(self._stored.device, torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move, but never round the packed buffers: `.to(bfloat16)` changes the compute dtype."""
        packed = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, before in packed.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self


class _Product(torch.autograd.Function):
    """x W^T that remembers no float copy of W for its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        grad, layer = grad_outputs[0], ctx.layer
        with without_autocast(grad):
            flat = layer.transposed(grad.reshape(-1, layer.out_features))  # (N, in)
        return flat.view(*grad.shape[:-1], layer.in_features), None


@cache
def choose_kernel(layer_type: type[Packed], device: str, dtype: torch.dtype) -> Kernel:
    """Return how such layers multiply on this type of device, and why.

    A faster kernel is first tried on a small layer.
    """
    if device not in layer_type.fast:
        return Kernel(REFERENCE, f"no kernel has been measured to be faster on {device}")
    fast = layer_type.fast[device].kernel
    if reason := layer_type.fast[device].refusal(dtype):
        return Kernel(REFERENCE, reason)
    assert fast.multiply
    with torch.device(device), torch.no_grad():
        layer = layer_type.sample(dtype)
        x = torch.arange(3.0 * layer.in_features).cos().view(3, -1).to(dtype)
        expected = layer.reference(x).float()  # (3, 12)
        try:
            actual = fast.multiply(x, layer).float()
        except RuntimeError as error:
            return Kernel(REFERENCE, f"{fast.name} does not run here: {error}")
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    if error <= 4 * torch.finfo(dtype).eps:
        return fast
    return Kernel(
        REFERENCE, f"{fast.name} is wrong here: a relative error of {error:.2g} on a small layer"
    )
