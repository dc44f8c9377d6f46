"""Products of a few rows by compiled code, for decoding: every weight is read once, as stored.

torch's products are made for many rows. With one row they read dense matrices at two thirds of the
memory's speed, and 4-bit ones at a twentieth. `kernels.c` is compiled once on a machine, in about a
second. Where that is not possible, everything is computed by torch, and `engine` says why.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Protocol, get_args

import torch
from torch import Tensor
from torch.profiler import record_function

from flyweight.config.speed import EngineName
from flyweight.core import native
from flyweight.errors import RequestError

MOST_ROWS = 8
"""More rows are multiplied by torch, which is faster from some tens of rows on."""

MOST_ROUNDED_ROWS = 128
"""The same of rows that are rounded to 8 bits."""

_WIDEST = 1 << 16
"""Columns whose products of bytes sum to less than 2^31."""

_ALONE = 1 << 17
"""Weights of a matrix that one thread multiplies sooner than several."""

MARK = "flyweight::compiled_product"
"""What a profiler sees of a compiled product."""

_SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("kernels.c", "integers.c", "step.c", "kernels.h")
)


class Format(IntEnum):
    """How a matrix lies in memory; the numbers are those of `kernels.h`."""

    FLOAT32 = 0
    BFLOAT16 = 1
    ROWS_INT8 = 2
    ROWS_INT8_DYNAMIC = 3
    BLOCKS_3BIT = 4
    BLOCKS_4BIT = 5
    BLOCKS_INT4 = 6
    BLOCKS_INT3 = 7


WHOLE_BLOCKS = {Format.BLOCKS_INT4: (8, 16, 32, 64, 128), Format.BLOCKS_INT3: (4, 8, 16, 32, 64)}
"""Blocks that products of integers go through as they are."""

_INTEGERS = (Format.ROWS_INT8, Format.ROWS_INT8_DYNAMIC, *WHOLE_BLOCKS)


@dataclass(frozen=True)
class Stored:
    """A matrix (out, in) as it lies in memory, for the compiled products.

    `weights` are floats (out, in) or int8 codes (out, in). Codes of 4 bits are two a byte, the
    first in its high half: (out, ceil(in / 2)). Codes of 3 bits are eight in three bytes, the first
    in the highest bits: (out, 3 * ceil(in / 8)). `scales` of int8 are bfloat16 (out,). The others
    have (out, blocks) of float32, bfloat16, or bytes; of bytes, `ranges` (2, groups, 1) are the
    groups' offsets and steps. `levels` (16,) is what each code stands for, in float32; of 3 bits
    the same eight twice. A `block` of 4 bits is even. Levels of BLOCKS_INT4 are -8 to 7, those of
    BLOCKS_INT3 -4 to 3, and their blocks are those of `WHOLE_BLOCKS`.
    """

    format: Format
    weights: Tensor
    in_features: int
    scales: Tensor | None = None
    ranges: Tensor | None = None
    levels: Tensor | None = None
    block: int = 0

    def runs(self) -> bool:
        """Return whether the tensors are where the compiled code can read them."""
        held = (self.weights, self.scales, self.ranges, self.levels)
        if self.format == Format.BLOCKS_4BIT and self.block % 2:
            return False
        if self.format in _INTEGERS and self.in_features >= _WIDEST:
            return False
        return all(part is None or (part.is_cpu and part.is_contiguous()) for part in held)


def dense_stored(weight: Tensor) -> Stored | None:
    """Return a float matrix (out, in) as the compiled products read it.

    None for floats that they do not know.
    """
    formats = {torch.float32: Format.FLOAT32, torch.bfloat16: Format.BFLOAT16}
    form = formats.get(weight.dtype)
    return None if form is None else Stored(form, weight, weight.shape[1])


class _Matrix(ctypes.Structure):
    """The struct `matrix` of `kernels.h`."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("format", "scale_format", "out", "in_", "block", "groups", "threads")
        ),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "ranges", "levels", "bias")),
    )


class Product:
    """x W^T + b by compiled code, of one matrix that stays where it is while this is used."""

    def __init__(self, stored: Stored, bias: Tensor | None, threads: int) -> None:
        bias = None if bias is None else bias.detach().float().contiguous()
        self.held = (stored, bias)
        self.out = stored.weights.shape[0]
        threads = threads if self.out * stored.in_features >= _ALONE else 1
        rounded = stored.format == Format.ROWS_INT8_DYNAMIC
        self.most_rows = MOST_ROUNDED_ROWS if rounded else MOST_ROWS
        groups = 0 if stored.ranges is None else stored.ranges.shape[1]
        self.matrix = _Matrix(
            *(stored.format, _scale_format(stored)),
            *(self.out, stored.in_features, stored.block, groups, threads),
            *map(_address, (stored.weights, stored.scales, stored.ranges, stored.levels, bias)),
        )
        self.at = ctypes.addressof(self.matrix)
        self.multiply = library().multiply

    def __call__(self, x: Tensor, rows: int) -> Tensor:
        """Return the product of x (..., in), of so many rows in all: (..., out)."""
        read = x if x.dtype is torch.float32 else x.float()
        if not read.is_contiguous():
            read = read.contiguous()
        y = torch.empty((*x.shape[:-1], self.out), dtype=torch.float32)
        if self.multiply(self.at, read.data_ptr(), y.data_ptr(), rows):
            raise MemoryError("no memory for a matrix product")
        return y if x.dtype is torch.float32 else y.to(x.dtype)


def _scale_format(stored: Stored) -> int:
    """Return how the scales lie, as `kernels.c` numbers it."""
    if stored.ranges is not None:
        return 2
    return 0 if stored.scales is None else int(stored.scales.dtype == torch.bfloat16)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class HasStored(Protocol):
    """A layer that can say how its matrix lies in memory."""

    @property
    def bias(self) -> Tensor | None:
        """What is added to every product, (out,)."""
        ...

    def stored(self) -> Stored | None:
        """Return the matrix as the compiled products read it; None where they do not know it."""
        ...


class Engine:
    """The compiled products of a model's layers, made when a layer is first used.

    It is good while nobody changes where the weights are: for one text, not for a training run.
    """

    def __init__(self, threads: int, marked: bool = False) -> None:
        self.threads = threads
        self.marked = marked
        self.products: dict[object, Product | None] = {}
        self.steps: dict[object, object] = {}
        """What `model.step` makes of whole models."""

    def product(self, layer: HasStored, x: Tensor) -> Tensor | None:
        """Return what a layer makes of x (..., in): (..., out).

        None where torch has to: for many rows, other devices and kinds that are not compiled.
        """
        rows = x.numel() // x.shape[-1]
        if rows > MOST_ROUNDED_ROWS or not rows:
            return None
        product = self.bound(layer)
        if product is None or rows > product.most_rows:
            return None
        if not self.marked:
            return product(x, rows)
        with record_function(MARK):
            return product(x, rows)

    def bound(self, layer: HasStored) -> Product | None:
        """Return a layer's product; None where its matrix is not one that the code can read."""
        try:
            return self.products[layer]
        except KeyError:
            product, stored = None, layer.stored()
            if stored is not None and stored.runs():
                product = Product(stored, layer.bias, self.threads)
            self.products[layer] = product
            return product


_ENGINE: ContextVar[Engine | None] = ContextVar("engine", default=None)

active = _ENGINE.get
"""Return the engine of here and now, or None where torch computes everything."""


def check_engine(name: str) -> None:
    """Raise RequestError for an engine that is not known, or cannot be had on this machine."""
    if name not in get_args(EngineName):
        raise RequestError(f"engine: {name} is not one of {', '.join(get_args(EngineName))}")
    if name == "compiled" and (reason := refusal()):
        raise RequestError(f"engine: compiled is not possible here: {reason}; use eager")


@contextmanager
def engine(name: EngineName, marked: bool = False) -> Iterator[Engine | None]:
    """Multiply few rows by compiled code inside this context, which must not train.

    A profiler sees products that are `marked`.

    `eager` leaves everything to torch, and `auto` does so where nothing can be compiled or where
    autocast chooses the products' dtype. Raises RequestError where `compiled` cannot be had.
    """
    check_engine(name)
    chosen = None
    if name != "eager" and not refusal():
        chosen = Engine(torch.get_num_threads(), marked)
    token = _ENGINE.set(chosen)
    try:
        yield chosen
    finally:
        _ENGINE.reset(token)


def refusal() -> str:
    """Return why the compiled products are not used here and now; empty where they are."""
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the dtype of products"
    return _fault()


def compile_seconds() -> float:
    """Return how long compiling took in this process: 0 where the code was there, or cannot be."""
    return 0.0 if _fault() else native.load(*_SOURCES).seconds


@cache
def library() -> ctypes.CDLL:
    """Return the compiled code; raise NativeError where it cannot be made."""
    library = native.load(*_SOURCES).library
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.multiply.argtypes = (pointer, pointer, pointer, number)
    library.multiply.restype = ctypes.c_int
    library.step.argtypes = (pointer, number, pointer, *(number,) * 8, pointer, number)
    library.step.restype = ctypes.c_int
    return library


@cache
def _fault() -> str:
    """Return why there are no compiled products on this machine; empty where they are right."""
    try:
        library()
    except native.NativeError as error:
        return str(error)
    weight = torch.arange(7.0 * 66).sin().view(7, 66)
    x = torch.arange(3.0 * 66).cos().view(3, 66)
    found = Product(Stored(Format.FLOAT32, weight, 66), weight[:, 0], 2)(x, 3)
    expected = torch.nn.functional.linear(x, weight, weight[:, 0])
    if torch.allclose(found, expected, rtol=0, atol=1e-4):
        return ""
    return "the compiled products are wrong on this machine"
