"""What a model is made of, for its costs: matrices and vectors."""

from __future__ import annotations

from dataclasses import dataclass

from flyweight.config.linear_kinds import LinearKind


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One linear layer or embedding table (out, in).

    `products` is how often a forward pass multiplies each token with it. `blind` of these have an
    input that no gradient goes to. `visits` is how often a layer of its block is used.
    """

    part: str
    out: int
    in_: int
    kind: LinearKind
    bias: bool = False
    products: int = 0
    visits: int = 1
    blind: int = 0

    @property
    def parameters(self) -> int:
        """How many parameters it counts as, its bias included."""
        return self.kind.parameters(self.out, self.in_) + self.out * self.bias

    @property
    def trained(self) -> int:
        """How many numbers an optimizer moves, its bias included."""
        tensors = self.kind.tensors(self.out, self.in_)
        return sum(tensor.size for tensor in tensors if tensor.trains) + self.out * self.bias

    @property
    def forward(self) -> int:
        """Multiplications for each token in a forward pass."""
        return self.products * sum(p.size for p in self.kind.products(self.out, self.in_))

    @property
    def training(self) -> int:
        """Multiplications for each token in forward and backward.

        Each product comes back for its input and, where its matrix trains, for the matrix.
        """
        total = 0
        for product in self.kind.products(self.out, self.in_):
            total += product.size * self.products * (2 + product.trains)
            total -= product.size * self.blind * product.reads_input
        return total

    def nbytes(self, itemsize: int) -> int:
        """Return the bytes it is stored in where floats take `itemsize`."""
        return (
            self.kind.stored_bytes(self.out, self.in_, itemsize) + self.out * self.bias * itemsize
        )


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Numbers that are not a matrix; `stored` is their bytes where they are not floats.

    `stored` stands where nothing trains: tables of n-grams. `decays`: weight decay acts on them.
    `final` is the norm that the head reads.
    """

    part: str
    size: int
    visits: int = 1
    stored: int | None = None
    decays: bool = False
    final: bool = False

    def nbytes(self, itemsize: int) -> int:
        """Return the bytes they are stored in where floats take `itemsize`."""
        return self.size * itemsize if self.stored is None else self.stored
