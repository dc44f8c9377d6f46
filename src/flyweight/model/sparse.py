"""Linear layers that store the numbers of a pruned matrix alone: by a bit mask, or two of four.

Both unpack some rows at a time and multiply with those, as all packed layers do. On CPUs a sparse
matrix that is mostly zero is multiplied row by row of what it stores; on CUDA two of four are
multiplied by the card's own kernel.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.linear_kinds import LinearKind
from flyweight.config.sparse_kinds import Sparse, TwoFour, mask_bytes
from flyweight.errors import FlyweightError
from flyweight.model.linear_layer import holds_data
from flyweight.model.masked import pack_bits, unpack_bits
from flyweight.model.packed import DeviceKernel, Kernel, Packed

CSR_SPARSITY = 0.8
"""The share of zeros from which a product of compressed rows was measured to beat a dense one."""


def _csr_refusal(dtype: torch.dtype) -> str | None:
    if dtype == torch.float32:
        return None
    return "torch multiplies compressed rows of float32 alone in fast ways"


def _csr_multiply(x: Tensor, layer: SparseLinear) -> Tensor:
    return (layer.compressed_rows() @ x.T).T.contiguous()


_CSR = Kernel(
    "torch CSR",
    "reads numbers that are not zero alone; each takes 4 bytes more in memory, for its column",
    _csr_multiply,
)


def _semi_structured_refusal(dtype: torch.dtype) -> str | None:
    if dtype in (torch.float16, torch.bfloat16):
        return None
    return "graphics cards multiply 2:4 matrices of 16-bit numbers alone"


def _semi_structured_multiply(x: Tensor, layer: TwoFourLinear) -> Tensor:
    return F.linear(x, layer.semi_structured(x.dtype))


_SEMI_STRUCTURED = Kernel(
    "torch semi-structured",
    "the card skips the zeros; it has a form of the matrix of its own, beside the file's",
    _semi_structured_multiply,
)
_CSR_FAST = {"cpu": DeviceKernel(_CSR, _csr_refusal)}
_SEMI_STRUCTURED_FAST = {"cuda": DeviceKernel(_SEMI_STRUCTURED, _semi_structured_refusal)}


class PrunedPacked(Packed):
    """What both have in common: numbers in the model's own float type, which do not train."""

    values: nn.Parameter

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        rows, places = torch.unique(index, return_inverse=True)
        return self._chosen(rows).index_select(0, places.reshape(-1)).view(*index.shape, -1)

    def dense(self) -> Tensor:
        """Return the weight (out, in) that the layer stands for, in float."""
        return self._part(0, self.out_features, self.dtype)

    @abstractmethod
    def _chosen(self, rows: Tensor) -> Tensor:
        """Return different rows of the weight, by ascending number: (n,) -> (n, in)."""

    def _hold(self, values: Tensor) -> None:
        """Keep these numbers, in the layer's float type."""
        self.values = nn.Parameter(values.to(self.dtype), requires_grad=False)


class SparseLinear(PrunedPacked):
    """The numbers that are not zero, row by row, and a bit for each place of the matrix."""

    default_kind = Sparse(nonzero=0)
    fast = _CSR_FAST
    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, kind)
        assert isinstance(self.kind, Sparse)
        bits = torch.zeros(out_features, mask_bytes(in_features), dtype=torch.uint8)
        self.register_buffer("mask", bits)
        self._hold(torch.zeros(self.kind.nonzero))
        self._starts: Tensor | None = None
        self._rows: Tensor | None = None

    @classmethod
    def sample(cls, dtype: torch.dtype) -> SparseLinear:
        """Return a small layer of which nine in ten numbers are zero."""
        weight = torch.arange(12.0 * 64).sin().view(12, 64)
        weight[weight < 0.95] = 0
        return cls.from_dense(weight, None, Sparse(nonzero=int(weight.count_nonzero())))

    def kernel_mismatch(self) -> str | None:
        """Return why compressed rows would not be faster: too few numbers are zero."""
        share = 1 - self.values.numel() / max(1, self.out_features * self.in_features)
        if share >= CSR_SPARSITY:
            return None
        return f"{share:.0%} of it is zero, and compressed rows pay from {CSR_SPARSITY:.0%} on"

    @torch.no_grad()
    def compressed_rows(self) -> Tensor:
        """Return the weight (out, in) as torch's CSR tensor, made once; it shares the numbers."""
        current = self._rows
        if current is None or current.values().data_ptr() != self.values.data_ptr():
            present = unpack_bits(self.mask, self.in_features)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
                current = torch.sparse_csr_tensor(
                    self._row_starts().int(),
                    present.nonzero()[:, 1].int(),
                    self.values.detach(),
                    (self.out_features, self.in_features),
                    check_invariants=True,
                )
            self._rows = current
        return current

    @torch.no_grad()
    def pack(self, weight: Tensor) -> None:
        """Store this weight (out, in).

        Raises FlyweightError for another shape, a value that is not finite, or more numbers than
        the kind says. Where there are fewer, some zeros are stored as numbers.
        """
        weight = self.checked(weight)
        assert isinstance(self.kind, Sparse)
        present = weight != 0
        missing = self.kind.nonzero - int(present.sum())
        if missing < 0:
            raise FlyweightError(
                f"weight: {int(present.sum())} numbers are not zero, and the kind sparse has room "
                f"for {self.kind.nonzero}"
            )
        zeros = (~present).view(-1).nonzero()[:missing, 0]
        present.view(-1)[zeros] = True
        self.mask.copy_(pack_bits(present))
        self._hold(weight[present])
        self._starts = self._rows = None

    @torch.no_grad()
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw a weight, of which the largest numbers stay, and set the bias to zero."""
        assert isinstance(self.kind, Sparse)
        if holds_data(self.mask):
            weight = torch.empty(self.out_features, self.in_features, device="cpu")
            weight.normal_(0.0, std, generator=generator)
            smallest = weight.abs().view(-1).argsort()[: weight.numel() - self.kind.nonzero]
            weight.view(-1)[smallest] = 0
            self.pack(weight)
        if self.bias is not None:
            self.bias.zero_()

    def _part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self._filled(
            self._sliced(self.mask, start, stop), self._values_of(start, stop), dtype
        )

    def _values_of(self, start: int, stop: int) -> Tensor:
        if stop - start == self.out_features:
            return self.values
        starts = self._row_starts()
        return self.values[int(starts[start]) : int(starts[stop])]

    def _filled(self, mask: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
        present = unpack_bits(mask, self.in_features)
        weight = torch.zeros(present.shape, dtype=dtype, device=mask.device)
        return weight.masked_scatter_(present, values.to(dtype))

    def _chosen(self, rows: Tensor) -> Tensor:
        starts = self._row_starts().to(rows.device)
        counts = starts[rows + 1] - starts[rows]  # (n,)
        first = starts[rows].repeat_interleave(counts)
        within = torch.arange(len(first), device=rows.device)
        within -= (counts.cumsum(0) - counts).repeat_interleave(counts)
        return self._filled(self.mask[rows], self.values[first + within], self.dtype)

    def _row_starts(self) -> Tensor:
        """Return where each row's numbers begin, and where the last one's end: (out + 1,).

        They are counted once, and not stored.
        """
        if self._starts is None or self._starts.device != self.mask.device:
            counts = unpack_bits(self.mask, self.in_features).sum(1)  # (out,)
            self._starts = F.pad(counts.cumsum(0), (1, 0))
        return self._starts

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._starts = self._rows = None


class TwoFourLinear(PrunedPacked):
    """Two of every four numbers in a row, and two bits for the place of each."""

    default_kind = TwoFour()
    fast = _SEMI_STRUCTURED_FAST
    places: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, kind)
        if in_features % 4:
            raise FlyweightError(
                f"two_four: rows of {in_features} numbers are not whole fours; use sparse"
            )
        places = torch.zeros(out_features, -(-in_features // 8), dtype=torch.uint8)
        self.register_buffer("places", places)
        self._hold(torch.zeros(out_features, in_features // 2))
        self._semi_structured: Tensor | None = None

    @classmethod
    def sample(cls, dtype: torch.dtype) -> TwoFourLinear:
        """Return a small layer of a size that graphics cards multiply."""
        fours = torch.arange(64.0 * 128).sin().view(64, -1, 4)
        fours[..., 1::2] = 0
        return cls.from_dense(fours.flatten(1).to(dtype), None)

    def kernel_mismatch(self) -> str | None:
        """Return why a graphics card cannot take this layer: its size."""
        if self.out_features % 32 or self.in_features % 64:
            return (
                f"2:4 kernels want sizes in multiples of 32 and 64, not {self.in_features} -> "
                f"{self.out_features}"
            )
        return None

    @torch.no_grad()
    def semi_structured(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in) in the card's own form, made once. CUDA alone has it."""
        from torch.sparse import to_sparse_semi_structured

        current = self._semi_structured
        if current is None or current.dtype != dtype or current.device != self.values.device:
            dense = self._part(0, self.out_features, dtype)
            current = to_sparse_semi_structured(dense)
            self._semi_structured = current
        return current

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._semi_structured = None

    @torch.no_grad()
    def pack(self, weight: Tensor) -> None:
        """Store this weight (out, in).

        Raises FlyweightError for another shape, a value that is not finite, or four numbers in a
        row of which more than two are not zero.
        """
        fours = self.checked(weight).view(self.out_features, -1, 4)  # (out, in / 4, 4)
        present = fours != 0
        if (present.sum(-1) > 2).any():
            raise FlyweightError("weight: more than two of four numbers are not zero")
        places = torch.sort(present.int(), dim=-1, descending=True, stable=True).indices[..., :2]
        places = places.sort(-1).values  # (out, in / 4, 2)
        self._hold(fours.gather(-1, places).flatten(1))
        self._semi_structured = None
        codes = places[..., 0] | places[..., 1] << 2  # (out, in / 4)
        codes = F.pad(codes, (0, codes.shape[1] % 2)).to(torch.uint8)
        self.places.copy_(codes[:, ::2] | codes[:, 1::2] << 4)

    @torch.no_grad()
    def reset(self, std: float, generator: torch.Generator) -> None:
        """Draw a weight, of which the larger two of every four stay, and set the bias to zero."""
        if holds_data(self.places):
            weight = torch.empty(self.out_features, self.in_features, device="cpu")
            fours = weight.normal_(0.0, std, generator=generator).view(-1, 4)
            fours.scatter_(1, fours.abs().argsort(1)[:, :2], 0.0)
            self.pack(weight)
        if self.bias is not None:
            self.bias.zero_()

    def _part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        codes, values = self._sliced(self.places, start, stop), self.values[start:stop]
        return self._filled(codes, values, dtype)

    def _filled(self, codes: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
        shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=codes.device)
        places = (codes[..., None] >> shifts & 3).flatten(1)[:, : values.shape[1]]  # (n, in / 2)
        fours = torch.zeros(len(codes), self.in_features // 4, 4, dtype=dtype, device=codes.device)
        pairs = (-1, self.in_features // 4, 2)
        fours.scatter_(2, places.long().view(pairs), values.to(dtype).view(pairs))
        return fours.flatten(1)

    def _chosen(self, rows: Tensor) -> Tensor:
        return self._filled(self.places[rows], self.values[rows], self.dtype)
