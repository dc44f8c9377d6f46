"""How an optimizer's running means are stored: in float32, in bfloat16, or in 8 bits by the block.

Whoever updates a tensor reads and writes its states slice by slice, so that no float32 copy of a
whole state exists. What is stored is rounded at random, up or down, and is right on average:
rounded to the nearest, a mean that changes by less than half a place would never change at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from flyweight.core.alike import alike

States = Literal["fp32", "bf16", "int8"]

SLICE = 2**16
"""Numbers that are updated at once: a few of them stay in a core's cache together."""

BLOCK = 256
"""Numbers that share a scale, which is the largest of them (Dettmers et al. 2022)."""

FEWEST = 4096
"""Tensors with fewer numbers (norms, biases) keep float32 states, which cost next to nothing."""

Stored = dict[str, Tensor]
"""The tensors of a state by name: flat, so that a checkpoint can hold them."""


class StateFormat(Protocol):
    """A way to store a state of `count` numbers, of which slices are read and written."""

    def new(self, name: str, count: int, device: torch.device) -> Stored:
        """Return the tensors of a state that is zero everywhere."""
        ...

    def read(self, stored: Stored, name: str, part: slice) -> Tensor:
        """Return a part of a state in float32, which the caller may change."""
        ...

    def write(
        self, stored: Stored, name: str, part: slice, values: Tensor, generator: torch.Generator
    ) -> None:
        """Store a part of a state; `values` may be used up."""
        ...


class Float32:
    """A state as it is."""

    def new(self, name: str, count: int, device: torch.device) -> Stored:
        """Return one tensor of zeros."""
        return {name: torch.zeros(count, device=device)}

    def read(self, stored: Stored, name: str, part: slice) -> Tensor:
        """Return the numbers themselves: whoever changes them changes what is stored."""
        return stored[name][part]

    def write(
        self, stored: Stored, name: str, part: slice, values: Tensor, generator: torch.Generator
    ) -> None:
        """Store nothing: what `read` gave out has been changed in place."""


class BFloat16:
    """A state in bfloat16."""

    def new(self, name: str, count: int, device: torch.device) -> Stored:
        """Return one tensor of zeros."""
        return {name: torch.zeros(count, device=device, dtype=torch.bfloat16)}

    def read(self, stored: Stored, name: str, part: slice) -> Tensor:
        """Return the numbers in float32."""
        return stored[name][part].float()

    def write(
        self, stored: Stored, name: str, part: slice, values: Tensor, generator: torch.Generator
    ) -> None:
        """Round at random and store."""
        stored[name][part] = rounded_at_random(values, generator)


class Blockwise:
    """A state in 8 bits: scale * (code / largest code)^power, with a scale for each block.

    Powers give small numbers finer steps than large ones. `signed` codes reach from -127 to 127.
    Codes without a sign reach from 1 to 255, and never 0: a second moment of nothing under a first
    moment of something would be an update without bounds.
    """

    def __init__(self, signed: bool, power: Literal[2, 4]) -> None:
        self.signed = signed
        self.power = power
        self.largest = 127 if signed else 255

    def new(self, name: str, count: int, device: torch.device) -> Stored:
        """Return codes and scales of zero."""
        dtype = torch.int8 if self.signed else torch.uint8
        blocks = -(-count // BLOCK)
        return {
            name: torch.zeros(count, device=device, dtype=dtype),
            f"{name}_scale": torch.zeros(blocks, device=device),
        }

    def read(self, stored: Stored, name: str, part: slice) -> Tensor:
        """Return what the codes stand for, in float32."""
        root = _blocks(stored[name][part].float().div_(self.largest))  # (blocks, BLOCK)
        values = root * root.abs() if self.signed else root.square()
        if self.power == 4:
            values.square_()
        values.mul_(stored[f"{name}_scale"][_scales(part)].unsqueeze(1))
        return values.view(-1)[: part.stop - part.start]

    def write(
        self, stored: Stored, name: str, part: slice, values: Tensor, generator: torch.Generator
    ) -> None:
        """Take the largest of each block as its scale, and round the codes at random."""
        blocks = _blocks(values)  # (blocks, BLOCK)
        scales = blocks.abs().amax(1)  # (blocks,)
        root = blocks.abs().div_(scales.clamp(min=1e-38).unsqueeze(1)).sqrt_()
        if self.power == 4:
            root.sqrt_()
        noise = torch.rand(root.shape, generator=generator, device=root.device)
        codes = root.mul_(self.largest).add_(noise).floor_()
        codes.clamp_(min=0 if self.signed else 1, max=self.largest)
        if self.signed:
            codes.copysign_(blocks)
        stored[name][part] = codes.view(-1)[: part.stop - part.start].to(stored[name].dtype)
        stored[f"{name}_scale"][_scales(part)] = scales


def _blocks(values: Tensor) -> Tensor:
    """Return values (n,) as rows of blocks, the last one filled up with zeros."""
    missing = -len(values) % BLOCK
    if missing:
        values = torch.nn.functional.pad(values, (0, missing))
    return values.view(-1, BLOCK)


def _scales(part: slice) -> slice:
    """Return the scales of a part, which begins with a block."""
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


FIRST: dict[States, StateFormat] = {
    "fp32": Float32(),
    "bf16": BFloat16(),
    "int8": Blockwise(signed=True, power=2),
}
"""How a first moment or a momentum is stored."""

SECOND: dict[States, StateFormat] = {**FIRST, "int8": Blockwise(signed=False, power=4)}
"""How a second moment is stored: never negative, and over twice as many orders of magnitude."""


def kept_as(states: States, count: int) -> States:
    """Return how the states of a tensor with `count` numbers are stored where `states` is asked."""
    return states if count >= FEWEST else "fp32"


def parts(count: int) -> Iterator[slice]:
    """Return the slices in which a tensor of `count` numbers is updated."""
    for start in alike(range(0, count, SLICE), enough=1):
        yield slice(start, min(start + SLICE, count))


def generator_for(seed: int, step: int, place: int, device: torch.device) -> torch.Generator:
    """Return the generator of one update of one tensor.

    It is a function of the step and the tensor's place, so that a checkpoint has no random state to
    keep.
    """
    mixed = (seed * 1_000_003 + step) * 1_000_003 + place
    return torch.Generator(device).manual_seed(mixed % 2**63)


def rounded_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return float32 values in bfloat16, up or down so that the expectation is the value.

    The bits that bfloat16 lacks are compared with as many random ones.
    """
    noise = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    noise.random_(0, 2**16, generator=generator)
    bits = values.contiguous().view(torch.int32).add(noise).bitwise_and_(-(2**16))
    return bits.view(torch.float32).to(torch.bfloat16)
