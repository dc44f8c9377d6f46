"""Integers in groups: packed and unpacked they are the same, the nearest, and at the best of a few scales."""

import pytest
import torch
from torch import Tensor

from flyweight.config.schema import Int3, Int4, LinearKind
from flyweight.model.linear import KINDS
from flyweight.model.linear_grouped import SHARES, GroupedLinear

KINDS_HERE = [Int4(), Int4(group=7), Int4(group=64), Int3(), Int3(group=20), Int3(group=5)]
SHAPES = [(5, 123), (123, 5), (64, 128), (7, 1), (1, 64)]
kinds = pytest.mark.parametrize("kind", KINDS_HERE, ids=str)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02


def empty(kind: LinearKind, out: int, in_: int) -> GroupedLinear:
    layer = KINDS[kind.kind](in_, out, False, kind)
    assert isinstance(layer, GroupedLinear)
    return layer


def made(kind: LinearKind, weight: Tensor) -> GroupedLinear:
    layer = empty(kind, *weight.shape)
    layer.pack(weight)
    return layer


@kinds
@shapes
def test_every_code_comes_back_from_its_bits(kind, shape):
    layer = empty(kind, *shape)
    codes = torch.randint(2**layer.bits, shape, generator=torch.Generator().manual_seed(1))
    layer.scales.fill_(1)
    layer.store(codes.to(torch.uint8), 0, shape[0])
    assert torch.equal(layer.dense(), codes.float() + layer.lowest)
    assert torch.equal(layer.units(codes), layer.dense())
    assert layer.codes.nbytes <= shape[0] * (shape[1] * layer.bits / 8 + 3)


@kinds
@shapes
def test_values_are_rounded_to_the_nearest_integer(kind, shape):
    weight = normal(*shape)
    layer = made(kind, weight)
    steps = layer.steps(0, shape[0])
    every = torch.arange(layer.lowest, layer.highest + 1)
    nearest = (weight[..., None] - every * steps[..., None]).abs().amin(-1)
    torch.testing.assert_close((layer.dense() - weight).abs(), nearest, rtol=1e-4, atol=1e-8)


@kinds
def test_the_best_scale_of_those_tried_is_stored(kind):
    weight = normal(6, 3 * kind.group)
    layer = made(kind, weight)
    error = (layer.dense() - weight).square().view(6, 3, -1).sum(-1)
    extreme = weight.view(6, 3, -1)
    extreme = extreme.gather(-1, extreme.abs().argmax(-1, keepdim=True))[..., 0]
    for share in SHARES:
        layer.scales.copy_(extreme * share / layer.lowest)
        steps = layer.steps(0, 6)
        rounded = (weight / steps).round().clamp(layer.lowest, layer.highest) * steps
        assert (error <= (rounded - weight).square().view(6, 3, -1).sum(-1) * 1.0001).all()


@kinds
def test_what_the_kind_can_say_is_exact(kind):
    generator = torch.Generator().manual_seed(2)
    lowest = empty(kind, 1, 1).lowest
    codes = torch.randint(lowest, -lowest, (9, 3 * kind.group + 1), generator=generator)
    codes[:, :: kind.group] = lowest
    scales = torch.logspace(-6, 2, 9, base=2)[:, None].bfloat16().float()
    weight = codes * scales * torch.where(torch.arange(9) % 2 == 0, 1, -1)[:, None]
    assert torch.equal(made(kind, weight).dense(), weight)


@kinds
def test_refitting_a_group_is_fitting_it(kind):
    weight = normal(6, 3 * kind.group)
    layer, fitted = empty(kind, *weight.shape), made(kind, weight)
    assert layer.columns_at_once == kind.group
    for start in range(0, weight.shape[1], kind.group):
        layer.refit(weight[:, start : start + kind.group], start)
    assert torch.equal(layer.scales, fitted.scales)


def test_more_bits_and_smaller_groups_are_closer():
    weight = normal(64, 512)
    errors = [
        (made(kind, weight).dense() - weight).norm().item()
        for kind in (Int3(group=128), Int3(), Int4(group=128), Int4())
    ]
    assert errors == sorted(errors, reverse=True)
