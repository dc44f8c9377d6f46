"""Packed pruned matrices: their bytes, their products and gradients, and that they load to the bit."""

from pathlib import Path

import pytest
import torch

from flyweight.config.schema import Dense, LinearKind, ModelConfig, Sparse, TwoFour
from flyweight.errors import FlyweightError
from flyweight.model import folder, linear
from flyweight.model.decoder import Decoder
from flyweight.model.packed import Packed

SHAPES = [(5, 12), (12, 124), (130, 64)]


def pruned(out: int, in_: int, kind: str, seed: int = 0) -> tuple[torch.Tensor, LinearKind]:
    """Return a weight with half of its numbers at zero, and the kind that packs it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, in_, generator=generator)
    if kind == "two_four":
        fours = weight.view(out, -1, 4)
        fours.scatter_(2, fours.abs().argsort(2)[..., :2], 0)
        fours[0, 0] = 0  # fewer than two of four may be left
        return weight, TwoFour()
    weight[weight < 0] = 0
    return weight, Sparse(nonzero=int(weight.count_nonzero()))


kinds = pytest.mark.parametrize("kind", ["sparse", "two_four"])
shapes = pytest.mark.parametrize(("out", "in_"), SHAPES)


@kinds
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_packed_layer_is_the_dense_one(out, in_, kind, dtype):
    weight, config = pruned(out, in_, kind)
    weight = weight.to(dtype)
    layer = linear.from_dense(config, weight, torch.ones(out, dtype=dtype))
    assert torch.equal(layer.dense(), weight)
    rows = torch.tensor([[out - 1, 0], [2, 2]])
    assert torch.equal(layer.rows(rows), weight[rows])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, in_, generator=generator).to(dtype).requires_grad_()
    result = layer(x)
    assert close(result, torch.nn.functional.linear(x.float(), weight.float()) + 1, dtype)
    result.sum().backward()
    assert x.grad is not None
    assert close(x.grad, weight.float().sum(0).expand(3, -1), dtype)


def close(actual: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether numbers are right to the rounding of their dtype."""
    error = (actual.float() - exact).abs().max()
    return bool(error <= 8 * torch.finfo(dtype).eps * exact.abs().max())


@kinds
@shapes
def test_rows_are_unpacked_some_at_a_time(out, in_, kind, monkeypatch):
    weight, config = pruned(out, in_, kind)
    layer = linear.from_dense(config, weight, None)
    assert isinstance(layer, Packed)
    monkeypatch.setattr("flyweight.model.packed._PIECE_CPU", 2 * in_)
    x = torch.randn(3, in_)
    assert torch.allclose(layer(x), x @ weight.T, atol=1e-5)


@pytest.mark.parametrize("itemsize", [2, 4])
@kinds
def test_the_bytes_are_exact(kind, itemsize):
    weight, config = pruned(768, 768, kind)
    dtype = {2: torch.bfloat16, 4: torch.float32}[itemsize]
    layer = linear.from_dense(config, weight.to(dtype), None)
    nonzero = 768 * 768 // 2 if kind == "two_four" else int(weight.count_nonzero())
    bits = 768 * 768 // 8
    assert layer.stored_bytes() == nonzero * itemsize + bits
    assert config.stored_bytes(768, 768, itemsize) == layer.stored_bytes()


def test_half_of_a_bfloat16_matrix_takes_nine_sixteenths():
    dense = Dense().stored_bytes(768, 768, 2)
    half = Sparse(nonzero=768 * 384).stored_bytes(768, 768, 2)
    assert half / dense == TwoFour().stored_bytes(768, 768, 2) / dense == 0.5625


def test_what_the_kinds_cannot_hold_is_refused():
    with pytest.raises(FlyweightError, match="room for 3"):
        linear.from_dense(Sparse(nonzero=3), torch.ones(2, 2), None)
    with pytest.raises(FlyweightError, match="more than two of four"):
        linear.from_dense(TwoFour(), torch.ones(2, 4), None)
    with pytest.raises(FlyweightError, match="whole fours"):
        linear.build(TwoFour(), 6, 2, bias=False)
    with pytest.raises(FlyweightError, match="NaN"):
        linear.from_dense(Sparse(nonzero=4), torch.full((2, 2), float("nan")), None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_model_comes_back_to_the_bit(tmp_path: Path, dtype):
    linears: dict[str, LinearKind] = {
        "blocks.*.attention": TwoFour(),
        "blocks.*.mlp.down": Sparse(nonzero=500),
        "embedding": Sparse(nonzero=0),
    }
    config = ModelConfig(vocab_size=100, context=32, dim=48, layers=2, linears=linears)
    model = Decoder(config, seed=1).to(dtype).eval()
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path).eval()
    tokens = torch.arange(24)[None]
    assert loaded.dtype == dtype
    assert torch.equal(loaded(tokens), model(tokens))


def test_a_matrix_that_is_mostly_zero_is_multiplied_by_what_it_stores():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 64, generator=generator)
    weight[weight < 1.3] = 0
    layer = linear.from_dense(Sparse(nonzero=int(weight.count_nonzero())), weight, None)
    assert isinstance(layer, Packed)
    assert layer.kernel(torch.float32).name == "torch CSR"
    assert layer.kernel(torch.bfloat16).name == "reference"
    for rows in (1, 5, 130):
        x = torch.randn(rows, 64, generator=generator)
        assert torch.allclose(layer(x), x @ weight.T, atol=1e-5)
    with torch.no_grad():
        layer.load_state_dict({**layer.state_dict(), "values": layer.values * 2})
        assert torch.allclose(layer(x), 2 * x @ weight.T, atol=1e-5)
    layer = layer.to(torch.bfloat16)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_the_kernel_of_graphics_cards_is_refused_with_its_reason():
    layer = linear.from_dense(*reversed(pruned(12, 124, "two_four")), None)
    assert isinstance(layer, Packed)
    assert layer.kernel(torch.float16).name == "reference"
    assert "12" in (layer.kernel_mismatch() or "")
    refusal = layer.fast["cuda"].refusal
    assert refusal(torch.float16) is None
    assert "16-bit" in (refusal(torch.float32) or "")
