"""Int8 times int8: a scale a token, sums without order, and so no token that depends on another."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.schema import Int8, Int8Dynamic
from flyweight.model import linear_dynamic, packed
from flyweight.model.linear import build
from flyweight.model.linear_dynamic import Int8DynamicLinear
from flyweight.model.packed import REFERENCE, choose_kernel

SHAPES = [(5, 123), (123, 5), (64, 128), (48, 3000), (1, 64)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(out: int, in_: int, bias: bool = False) -> Int8DynamicLinear:
    return Int8DynamicLinear.from_dense(
        normal(out, in_) * 0.02, normal(out, seed=1) if bias else None
    )


@shapes
def test_the_product_is_that_of_the_rounded_inputs(shape):
    layer, x = made(*shape, bias=True), normal(9, shape[1], seed=2)
    scales = x.abs().amax(1, keepdim=True) / 127
    rounded = (x / scales).round().double() * scales.double()
    exact = F.linear(rounded, layer.dense().double(), layer.bias.double())  # pyright: ignore
    torch.testing.assert_close(layer(x).double(), exact, rtol=1e-5, atol=1e-6)
    unrounded = F.linear(x, layer.dense(), layer.bias)
    assert (layer(x) - unrounded).norm() < 0.02 * unrounded.norm()


@shapes
def test_a_token_is_the_same_to_the_bit_whatever_stands_beside_it(shape):
    layer, x = made(*shape), normal(300, shape[1], seed=2)
    with torch.no_grad():
        alone = torch.cat([layer(row[None]) for row in x[:5]])
        for rows in (5, 6, 16, 17, 33, 300):
            assert torch.equal(layer(x[:rows])[:5], alone)
        assert torch.equal(layer(x[:6].view(2, 3, -1)).view(6, -1)[:5], alone)
        others = torch.cat((x[:5], x[5:] * 1e6))
        assert torch.equal(layer(others)[:5], alone)


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_s_product_and_the_reference_give_the_same_bits(shape, dtype, monkeypatch):
    layer, x = made(*shape), (normal(40, shape[1], seed=2) * 3).to(dtype)
    expected = layer.reference(x)
    assert layer.kernel(dtype).name == "torch._int_mm"
    for rows in (1, 2, 7, 16, 17, 40):
        assert torch.equal(linear_dynamic._int_mm(x[:rows], layer), expected[:rows])
    monkeypatch.setattr(packed, "_PIECE_CPU", 1000)
    assert torch.equal(layer.reference(x), expected)


def test_the_largest_products_are_exact():
    layer = Int8DynamicLinear.from_dense(torch.full((4, 9000), 127.0), None)
    x = torch.full((3, 9000), -127.0)
    x[:, 8999] = 126.0  # an odd sum, beyond what float32 can hold next to 2^27
    sums = layer._sums(x.to(torch.int8))
    assert torch.equal(sums, torch.full((3, 4), -127 * 127 * 8999 + 126 * 127, dtype=torch.int32))
    assert torch.equal(linear_dynamic._int_mm(x, layer), layer.reference(x))


def test_without_torch_s_product_the_reference_is_used_and_says_why(monkeypatch):
    choose_kernel.cache_clear()
    monkeypatch.setattr(linear_dynamic.torch.ops, "aten", object())
    kernel = made(4, 8).kernel(torch.float32)
    choose_kernel.cache_clear()
    assert kernel.name == REFERENCE
    assert "no product of int8" in kernel.reason


def test_a_single_column_goes_to_the_reference():
    layer, x = made(7, 1), normal(9, 1, seed=2)
    assert "single column" in layer.kernel(torch.float32).reason
    torch.testing.assert_close(layer(x), F.linear(x, layer.dense()))


def test_what_is_stored_is_what_int8_stores():
    weight = normal(12, 40)
    dynamic = Int8DynamicLinear.from_dense(weight, None)
    plain = build(Int8(), 40, 12, False)
    plain.load_state_dict(dynamic.state_dict())
    assert torch.equal(plain.dense(), dynamic.dense())
    assert Int8Dynamic().tensors(12, 40) == Int8().tensors(12, 40)
    index = torch.tensor([3, 3, 0])
    assert torch.equal(dynamic.rows(index), dynamic.dense()[index])


def test_the_gradient_to_the_input_goes_straight_through_its_rounding():
    layer, x = made(12, 40), normal(6, 40, seed=2).requires_grad_()
    slope = normal(6, 12, seed=3)
    (found,) = torch.autograd.grad(layer(x), x, slope)
    torch.testing.assert_close(found, slope @ layer.dense())


def test_no_input_gives_no_output_and_zeros_give_zeros():
    layer = made(12, 40)
    assert layer(torch.zeros(0, 40)).shape == (0, 12)
    assert torch.equal(layer(torch.zeros(2, 40)), torch.zeros(2, 12))
    assert layer(normal(2, 40).bfloat16()).dtype == torch.bfloat16
