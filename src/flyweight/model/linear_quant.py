"""Linear layers stored in 8 or 4 bits: int8 with a scale a row, and blocks of NormalFloat."""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.linear_kinds import NF4, NF4_GROUP, Int8, LinearKind
from flyweight.model.kernels import Format, Stored
from flyweight.model.packed import DeviceKernel, Kernel
from flyweight.model.rounded import Rounded

# The code book of Dettmers et al. (2023, appendix E): quantiles of the normal distribution, scaled
# to [-1, 1], zero among them.
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_BOOK = np.array(NF4_VALUES, dtype=np.float32)
# A byte holds two codes, the first in its high half; one look-up of eight bytes yields both floats.
_PAIRS = np.stack((_BOOK.repeat(16), np.tile(_BOOK, 16)), 1).reshape(-1).view(np.float64)  # (256,)


def _int8_refusal(dtype: torch.dtype) -> str | None:
    if dtype != torch.bfloat16:
        return (
            "torch's int8 kernel is vectorised for bfloat16 alone; for others it takes 4 to "
            "40 times the reference's time"
        )
    if sys.platform == "win32" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "torch's int8 kernel is vectorised for AVX2 and AVX512 alone, and not on Windows"
    return None


def _int8_multiply(x: Tensor, layer: Int8Linear) -> Tensor:
    x = x.contiguous()  # (N, in)
    x = x.clone() if x.data_ptr() % 32 else x
    return torch.ops.aten._weight_int8pack_mm(x, layer.codes, layer.scales)


def _nf4_refusal(dtype: torch.dtype) -> str | None:
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"bitsandbytes does not know {dtype}"
    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"bitsandbytes cannot be imported ({error}); pip install 'flyweight[kernels]' brings it"
        )
    if hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
        return None
    return f"bitsandbytes {bitsandbytes.__version__} has no gemm_4bit; version 0.50 has"


def _nf4_multiply(x: Tensor, layer: NF4Linear) -> Tensor:
    # The bare operator: bitsandbytes' own layer repacks its weights at the first use on some CPUs,
    # and then has no gradient.
    shape, scales = [layer.out_features, layer.in_features], layer.block_scales().reshape(-1)
    return torch.ops.bitsandbytes.gemm_4bit(
        x, layer.codes.view(-1, 1), shape, scales, layer.block, "nf4"
    )


_INT8 = Kernel(
    "torch._weight_int8pack_mm",
    "faster than unpacking for up to 16 rows, the reference above",
    _int8_multiply,
    16,
)
_NF4 = Kernel(
    "bitsandbytes.gemm_4bit",
    "fused or dequantizing, as bitsandbytes finds best for the shape",
    _nf4_multiply,
)
_INT8_FAST = {"cpu": DeviceKernel(_INT8, _int8_refusal)}
_NF4_FAST = {"cuda": DeviceKernel(_NF4, _nf4_refusal)}


class Int8Linear(Rounded):
    """Symmetric int8, one scale per output row.

    The error of a weight is at most half its row's scale.

    Scales are bfloat16. float16 is as small, but its range ends at 6e-8 and ruins rows of tiny
    weights (zero-initialised projections). float32 is not better: both errors measure 0.747 % of a
    normal matrix's norm, because the codes are rounded against the scale that is stored.
    """

    default_kind = Int8()
    rows_apart = 1
    codes: Tensor
    scales: Tensor
    fast = _INT8_FAST

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, kind)
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(out_features, dtype=torch.bfloat16))

    def fit(self, weight: Tensor) -> None:
        """Choose the scales: a row's largest value is code 127."""
        self.scales.copy_((weight.abs().amax(1) / 127).to(torch.bfloat16))  # (out,)

    def steps(self, start: int, stop: int) -> Tensor:
        """Return the scales of rows `start` to `stop`: (n, 1)."""
        return self.scales[start:stop, None].float()

    def nearest(self, units: Tensor) -> Tensor:
        """Return the integers nearest to weights in units (...)."""
        return units.round_().clamp_(-127, 127).to(torch.int8)

    def units(self, codes: Tensor) -> Tensor:
        """Return the integers as floats (...)."""
        return codes.float()

    def store(self, codes: Tensor, start: int, stop: int) -> None:
        """Store the codes (n, in) of rows `start` to `stop`."""
        self.codes[start:stop] = codes

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        return (self.codes[index] * self.scales[index].float()[..., None]).to(self.dtype)

    def kernel_mismatch(self) -> str | None:
        """Return why torch's kernel cannot take this layer.

        It reads aligned vectors, also past the end of a row.
        """
        if self.in_features % 16 or self.out_features % 4:
            return (
                f"torch's int8 kernel wants sizes in multiples of 16 and 4, not "
                f"{self.in_features} -> {self.out_features}"
            )
        return "the codes are not aligned in memory" if self.codes.data_ptr() % 16 else None

    def _part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        codes = self._sliced(self.codes, start, stop)
        codes = codes.float() if dtype == torch.float32 else codes.to(dtype)
        # Sums of unscaled codes can leave float16's range.
        return (
            codes.mul_(self.scales[start:stop, None].to(dtype)) if dtype == torch.float16 else codes
        )

    def _factors(self, dtype: torch.dtype) -> Tensor | None:
        return None if dtype == torch.float16 else self.scales

    def stored(self) -> Stored | None:
        """Return the codes and scales as the compiled products read them."""
        return Stored(Format.ROWS_INT8, self.codes, self.in_features, self.scales)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # A tensor of a safetensors file lies where its header ends, and the kernel reads aligned
        # vectors.
        if self.codes.device.type == "cpu" and self.codes.data_ptr() % 64:
            self.codes = self.codes.clone()


class NF4Linear(Rounded):
    """4-bit NormalFloat in blocks along each row, two codes a byte, one float32 scale a block.

    With `double`, scales take 8 bits: in groups of 256, each an offset plus a multiple of a step
    (both float32), after QLoRA (Dettmers et al. 2023), and codes are the nearest under the scale
    that is stored. A last, shorter block ends a row whose length is not a multiple of `block`.
    """

    default_kind = NF4()
    rows_apart = NF4_GROUP  # so that no group of scales lies in two parts
    codes: Tensor
    scales: Tensor
    fast = _NF4_FAST
    scale_ranges: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        kind: LinearKind | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, kind)
        assert isinstance(self.kind, NF4)
        self.block, self.nested = self.kind.block, self.kind.double
        self.blocks = -(-in_features // self.block)
        self.register_buffer(
            "codes", torch.zeros(out_features, -(-in_features // 2), dtype=torch.uint8)
        )
        dtype = torch.uint8 if self.nested else torch.float32
        self.register_buffer("scales", torch.zeros(out_features, self.blocks, dtype=dtype))
        if self.nested:  # the groups' offsets and steps
            self.register_buffer(
                "scale_ranges", torch.zeros(2, -(-out_features * self.blocks // NF4_GROUP), 1)
            )

    def fit(self, weight: Tensor) -> None:
        """Choose the scales: the largest value of a block is code 15 or 0."""
        width = self.blocks * self.block
        largest = [
            self._blocked(weight[start:stop], width).abs().amax(2)
            for start, stop in self._row_blocks(self._step(weight))
        ]
        self._pack_scales(torch.cat(largest))  # (out, blocks)

    def steps(self, start: int, stop: int) -> Tensor:
        """Return the scale of each weight of rows `start` to `stop`: (n, in)."""
        scales = self.block_scales(start, stop)
        return scales.repeat_interleave(self.block, 1)[:, : self.in_features]

    def nearest(self, units: Tensor) -> Tensor:
        """Return the places in the code book nearest to weights in units (...)."""
        book = torch.tensor(NF4_VALUES, device=units.device)
        middles = (book[1:] + book[:-1]) / 2  # (15,)
        return torch.bucketize(units, middles, out_int32=True).to(torch.uint8)

    def units(self, codes: Tensor) -> Tensor:
        """Return the values of the code book at some places (...)."""
        return torch.tensor(NF4_VALUES, device=codes.device)[codes.int()]

    def store(self, codes: Tensor, start: int, stop: int) -> None:
        """Store the codes (n, in) of rows `start` to `stop`, two a byte."""
        self.codes[start:stop] = packed_pairs(codes)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows at `index`: (...) -> (..., in)."""
        flat = index.reshape(-1).long()
        scales = self.scales[flat]  # (N, blocks)
        if self.nested:
            groups = (
                flat[:, None] * self.blocks + torch.arange(self.blocks, device=flat.device)
            ) // NF4_GROUP
            scales = _decoded(scales, self.scale_ranges[:, groups, 0])
        return (
            self._values(self.codes[flat], scales)
            .to(self.dtype)
            .view(*index.shape, self.in_features)
        )

    def block_scales(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return float32 scales of the blocks of rows `start` to `stop`: (stop - start, blocks)."""
        stop = self.out_features if stop is None else stop
        if not self.nested:
            return self._sliced(self.scales, start, stop)
        first, last = start * self.blocks // NF4_GROUP, -(-stop * self.blocks // NF4_GROUP)
        if (stop - start) * self.blocks == self.scale_ranges.shape[1] * NF4_GROUP:
            return _decoded(self.scales.view(-1, NF4_GROUP), self.scale_ranges).view(
                stop, self.blocks
            )
        codes = self.scales.view(-1)[first * NF4_GROUP : last * NF4_GROUP]
        codes = F.pad(codes, (0, (last - first) * NF4_GROUP - codes.numel())).view(
            -1, NF4_GROUP
        )  # (groups, 256)
        scales = _decoded(codes, self.scale_ranges[:, first:last]).view(-1)
        begin = start * self.blocks - first * NF4_GROUP
        return scales[begin : begin + (stop - start) * self.blocks].view(stop - start, self.blocks)

    def kernel_mismatch(self) -> str | None:
        """Return why bitsandbytes cannot take this layer: its blocks cross the ends of rows."""
        if self.in_features % self.block or self.in_features % 2:
            return (
                f"bitsandbytes wants rows of whole blocks: {self.in_features} is no multiple "
                f"of {self.block}"
            )
        sizes = (32, 64, 128, 256, 512, 1024, 2048, 4096)
        return (
            None
            if self.block in sizes
            else f"bitsandbytes knows no blocks of {self.block}, only of {sizes}"
        )

    def stored(self) -> Stored | None:
        """Return the codes and the blocks' scales as the compiled products read them."""
        return Stored(
            Format.BLOCKS_4BIT,
            self.codes,
            self.in_features,
            self.scales,
            self.scale_ranges if self.nested else None,
            torch.from_numpy(_BOOK),
            self.block,
        )

    def _part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self._values(
            self._sliced(self.codes, start, stop), self.block_scales(start, stop)
        ).to(dtype)

    def _values(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Return the float32 weights of packed rows (N, bytes) with scales (N, blocks): (N, in)."""
        table = torch.from_numpy(_PAIRS)
        if codes.device.type != "cpu":  # MPS has no float64, and only the bits matter
            table = table.view(torch.int64).to(codes.device)
        values = table.index_select(0, codes.reshape(-1).int()).view(torch.float32)
        if self.in_features % self.block == 0 and self.in_features % 2 == 0:
            return (
                values.view(-1, self.block).mul_(scales.reshape(-1, 1)).view(-1, self.in_features)
            )
        values = values.view(codes.shape[0], -1)[:, : self.in_features]  # (N, in)
        return values * scales.repeat_interleave(self.block, 1)[:, : self.in_features]

    def _blocked(self, weight: Tensor, width: int) -> Tensor:
        return F.pad(weight, (0, width - self.in_features)).view(-1, self.blocks, self.block)

    def _pack_scales(self, largest: Tensor) -> None:
        if not self.nested:
            self.scales.copy_(largest)
            return
        flat = largest.view(-1)
        padded = F.pad(flat[None], (0, -flat.numel() % NF4_GROUP), mode="replicate").view(
            -1, NF4_GROUP
        )
        offset, top = padded.amin(1, keepdim=True), padded.amax(1, keepdim=True)  # (groups, 1)
        step = (top - offset) / 255
        codes = ((padded - offset) / torch.where(step > 0, step, 1)).round_().clamp_(0, 255)
        self.scale_ranges.copy_(torch.stack((offset, step)))
        self.scales.copy_(codes.to(torch.uint8).view(-1)[: flat.numel()].view_as(self.scales))


def packed_pairs(codes: Tensor) -> Tensor:
    """Return codes below 16 (n, in), two a byte, the first in its high half: (n, bytes)."""
    codes = F.pad(codes, (0, codes.shape[1] % 2))
    return codes[:, ::2] << 4 | codes[:, 1::2]


def _decoded(codes: Tensor, ranges: Tensor) -> Tensor:
    """Return the scales of 8-bit codes (...) with their groups' offsets and steps (2, ...)."""
    offset, step = ranges.unbind()
    return codes.float().mul_(step).add_(offset)
