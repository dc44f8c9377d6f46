"""Kinds of linear layer with pruned weights: a mask that trains on, and two packed forms.

`masked` is a float matrix with a bit for each number: those of a 0 bit are zero and stay zero, in
any further training. It is not smaller. `sparse` and `two_four` are smaller, and do not train.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import NonNegativeInt

from flyweight.config.base import added
from flyweight.config.linear_kinds import LinearKind, Product, StoredTensor, register_kind

Pattern = Literal["2:4"]
"""A rule for which weights are zero: two of every four in a row of the matrix."""


def mask_bytes(in_: int) -> int:
    """Return the bytes of one row of a mask: a bit for each number."""
    return -(-in_ // 8)


class Masked(LinearKind):
    """A float matrix with a bit mask, which trains: pruned weights are zero and stay zero.

    `pattern` says that at most two of every four numbers in a row are not zero.
    """

    lossless: ClassVar[bool] = True

    kind: Literal["masked"] = "masked"
    pattern: Pattern | None = added(None)

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the matrix, zeros among it, and the mask."""
        return (
            StoredTensor("weight", (out, in_), trains=True),
            StoredTensor("mask", (out, mask_bytes(in_)), itemsize=1),
        )

    def products(self, out: int, in_: int) -> tuple[Product, ...]:
        """Return the whole product: a mask saves none of it."""
        return (Product(out, in_, trains=True),)

    @property
    def label(self) -> str:
        """The name in tables and messages."""
        return self.kind if self.pattern is None else f"{self.kind} {self.pattern}"


class Sparse(LinearKind):
    """The numbers of a matrix that are not zero, row by row, and a bit for each of its places.

    `nonzero` is how many they are. A forward pass unpacks some rows at a time and multiplies with
    those: it computes as much as a dense layer does.
    """

    lossless: ClassVar[bool] = True

    kind: Literal["sparse"] = "sparse"
    nonzero: NonNegativeInt

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the bits and the numbers."""
        return (
            StoredTensor("mask", (out, mask_bytes(in_)), itemsize=1),
            StoredTensor("values", (self.nonzero,)),
        )

    @property
    def label(self) -> str:
        """The name in tables and messages, without the count, which differs from layer to layer."""
        return self.kind


class TwoFour(LinearKind):
    """Two of every four numbers in a row, and two bits for the place of each.

    NVIDIA's graphics cards multiply such matrices of 16-bit numbers as they are. Elsewhere a
    forward pass unpacks some rows at a time, as `sparse` does.
    """

    lossless: ClassVar[bool] = True

    kind: Literal["two_four"] = "two_four"

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the numbers, and their places: those of eight numbers in a byte."""
        return (
            StoredTensor("places", (out, -(-in_ // 8)), itemsize=1),
            StoredTensor("values", (out, in_ // 2)),
        )


def pattern_faults(pattern: Pattern | None, name: str, in_: int) -> Iterator[str]:
    """Yield why a matrix that reads `in_` numbers cannot follow a pattern."""
    if pattern == "2:4" and in_ % 4:
        yield f"{name} reads {in_} numbers, which is no multiple of 4, so 2:4 does not fit it"


for _kind in (Masked, Sparse, TwoFour):
    register_kind(_kind)
