import pytest
import torch
import torch.nn.functional as F

from flyweight.config import schema
from flyweight.model import norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 123)])
def test_rms_norm_is_torchs_in_value_and_gradient(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(size, generator=generator, dtype=dtype) for size in (shape, shape[-1:], shape)
    )
    results = []
    for function in (norm.rms_norm, lambda a, b, eps: F.rms_norm(a, b.shape, b, eps)):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = function(a, b, 0.1)
        y.backward(grad)
        results.append((y, a.grad, b.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_rms_norm_passes_gradcheck_on_values_that_are_no_units() -> None:
    x = 3 * torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(0.5, 2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: norm.rms_norm(a, b, 1e-3), (x.requires_grad_(), weight.requires_grad_())
    )


def test_rms_norm_in_bfloat16_keeps_the_dtype_of_its_input() -> None:
    x, weight = torch.randn(3, 8).bfloat16(), torch.full((8,), 2.0)
    found = norm.rms_norm(x, weight, 1e-6)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.float(), F.rms_norm(x.float(), (8,), weight, 1e-6), rtol=1e-2, atol=1e-2
    )


def test_rms_norm_backward_is_not_rounded_by_autocast() -> None:
    x, weight = torch.randn(4, 64, requires_grad=True), torch.ones(64)
    grad = torch.randn(4, 64)
    norm.rms_norm(x, weight, 1e-6).backward(grad)
    plain, x.grad = x.grad, None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        norm.rms_norm(x, weight, 1e-6).backward(grad)
    assert plain is not None and x.grad is not None
    assert torch.equal(plain, x.grad)


def test_layer_norm_has_a_shift_only_with_bias() -> None:
    assert norm.build(schema.LayerNorm(bias=False), 4).bias is None
    layer = norm.build(schema.LayerNorm(eps=0.5), 4)
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 3.0)  # pyright: ignore[reportArgumentType]
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    torch.testing.assert_close(layer(x), 3 + 2 * x / 1.5**0.5)
