"""Packed linear layers: what they store, how far it is from what they were given, and that every way to multiply agrees."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.schema import NF4, Int3, Int4, Int8, LinearKind
from flyweight.errors import FlyweightError
from flyweight.model import linear_quant, packed
from flyweight.model.linear import KINDS, build
from flyweight.model.linear_quant import NF4_VALUES, Int8Linear, NF4Linear, _nf4_multiply
from flyweight.model.packed import REFERENCE, DeviceKernel, Kernel, Packed, choose_kernel

OPTIONS = [
    Int8(),
    NF4(),
    NF4(double=False),
    NF4(block=5),
    NF4(block=63, double=False),
    Int4(),
    Int4(group=7),
    Int3(),
    Int3(group=20),
]
SHAPES = [(5, 123), (123, 5), (64, 128), (300, 96), (7, 1), (1, 64)]
kinds = pytest.mark.parametrize(
    "kind", OPTIONS, ids=lambda kind: "-".join(map(str, kind.model_dump().values()))
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: LinearKind, out_features: int, in_features: int, bias: bool = False) -> Packed:
    weight = normal(out_features, in_features) * 0.02
    layer = KINDS[kind.kind].from_dense(
        weight, normal(out_features, seed=1) if bias else None, kind
    )
    assert isinstance(layer, Packed)
    return layer


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_PIECE_CPU", 1000)


# --- products, rows, gradients ---


@kinds
@shapes
@pytest.mark.parametrize("bias", [False, True])
def test_forward_and_gradients_are_those_of_the_unpacked_weight(kind, shape, bias):
    layer = made(kind, *shape, bias)
    x = normal(2, 3, shape[1], seed=2).requires_grad_()
    expected = F.linear(x, layer.dense(), layer.bias)
    wanted = [x, layer.bias] if layer.bias is not None else [x]
    slope = normal(*expected.shape, seed=3)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(
        torch.autograd.grad(layer(x), wanted, slope), torch.autograd.grad(expected, wanted, slope)
    )
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected.detach())
    assert layer(x[:, :0]).shape == (2, 0, shape[0])


@kinds
@shapes
def test_pieces_give_what_the_whole_gives(kind, shape, small_chunks):
    layer, x = made(kind, *shape), normal(4, shape[1], seed=2).requires_grad_()
    weight = layer.dense()
    torch.testing.assert_close(layer(x), F.linear(x, weight))
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(grad, weight.sum(0).expand_as(x))


@kinds
def test_no_more_than_a_piece_is_ever_unpacked(kind, small_chunks, monkeypatch):
    layer, sizes = made(kind, 300, 96), []
    part = type(layer)._part

    def watched(self: Packed, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        sizes.append((stop - start) * self.in_features)
        return part(self, start, stop, dtype)

    monkeypatch.setattr(type(layer), "_part", watched)
    layer(normal(2, 96).requires_grad_()).sum().backward()
    assert max(sizes) <= 1000
    assert sum(sizes) == 2 * 300 * 96


@kinds
def test_packing_in_pieces_stores_the_same_bits(kind, monkeypatch):
    whole = made(kind, 300, 96).state_dict()
    monkeypatch.setattr(packed, "_PIECE_CPU", 1000)
    pieces = made(kind, 300, 96).state_dict()
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


@kinds
@shapes
def test_rows_are_the_rows_of_the_dense_weight(kind, shape):
    layer = made(kind, *shape)
    whole = torch.stack(
        [part for row in range(shape[0]) for part in layer._part(row, row + 1, torch.float32)]
    )
    factors = layer._factors(torch.float32)
    dense = whole if factors is None else whole * factors[:, None]
    assert torch.equal(layer.dense(), dense)
    half, factors = layer._part(0, shape[0], torch.float16), layer._factors(torch.float16)
    assert factors is None  # sums of unscaled codes could leave float16's range
    torch.testing.assert_close(half.float(), dense, rtol=2**-8, atol=1e-6)
    index = torch.randint(shape[0], (2, 3), generator=torch.Generator().manual_seed(4))
    assert torch.equal(layer.rows(index), dense[index])
    assert torch.equal(layer.rows(index.int()), dense[index])
    assert layer.rows(index[0, 0]).shape == (shape[1],)


def test_the_gradient_needs_no_float_copy_of_the_weight():
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = normal(3, 64).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made(NF4(), 32, 64)(x)
    assert not saved


@kinds
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9), (torch.float64, 1e-5)]
)
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_other_dtypes_agree_with_float32(kind, dtype, tolerance, rows):
    for shape in [(12, 64), (5, 123), (33, 48)]:
        layer, x = made(kind, *shape, bias=True), normal(rows, shape[1], seed=2).to(dtype)
        expected = layer(x.float())
        found = layer(x)
        assert found.dtype == dtype
        assert (found.float() - expected).abs().max() <= tolerance * expected.abs().max()


@kinds
def test_autocast_computes_in_its_dtype_and_the_gradient_comes_back_in_the_input_s(kind):
    layer, x = made(kind, 32, 64), normal(4, 64, seed=2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        (grad,) = torch.autograd.grad(y.float().sum(), x)
    assert torch.equal(y, layer(x.detach().bfloat16()))  # autocast meddles with no product inside
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad, layer.dense().sum(0).expand_as(x), rtol=2**-6, atol=1e-2)
    assert not torch.equal(grad, torch.zeros_like(grad))


# --- what is stored ---


@kinds
def test_moving_to_another_dtype_rounds_no_packed_value(kind):
    layer = made(kind, 32, 64, bias=True)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.to(torch.float16)
    assert layer.rows(torch.tensor([1])).dtype == layer.dense().dtype == torch.float16
    assert layer.bias is not None
    assert layer.bias.dtype == torch.float16
    layer.to(torch.float32)
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer, before[name])


@kinds
@shapes
def test_a_saved_state_loads_to_the_bit_without_unpacking(kind, shape, monkeypatch):
    layer = made(kind, *shape, bias=True)
    expected, x = layer.dense(), normal(2, shape[1])
    result = layer(x)
    other = build(kind, shape[1], shape[0], True)
    assert isinstance(other, Packed)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the weight was unpacked")

    with monkeypatch.context() as patch:
        for name in ("dense", "rows", "pack", "_part"):
            patch.setattr(type(other), name, refuse)
        other.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(other.dense(), expected)
    assert torch.equal(other(x), result)


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (Int8(), 8.016),
        (NF4(), 4.129),
        (NF4(double=False), 4.5),
        (NF4(block=128), 4.065),
        (Int4(), 4.5),
        (Int4(group=128), 4.125),
        (Int3(), 3.5),
        (Int3(group=64), 3.25),
    ],
)
def test_stored_bytes_are_the_bits_claimed(kind, bits):
    layer = KINDS[kind.kind](1024, 512, True, kind)
    assert layer.stored_bytes() - 4 * 512 == pytest.approx(bits / 8 * 1024 * 512, rel=1e-3)
    assert layer.stored_bytes() == sum(tensor.nbytes for tensor in layer.state_dict().values())


@kinds
def test_zeros_are_stored_exactly(kind):
    layer = KINDS[kind.kind].from_dense(torch.zeros(6, 70), None, kind)
    assert torch.equal(layer.dense(), torch.zeros(6, 70))
    mixed = normal(6, 70)
    mixed[::2] = 0
    assert torch.equal(
        KINDS[kind.kind].from_dense(mixed, None, kind).dense()[::2], torch.zeros(3, 70)
    )


@kinds
def test_a_weight_that_cannot_be_stored_is_refused(kind):
    layer = made(kind, 4, 8)
    with pytest.raises(FlyweightError, match=r"shape is \(8, 4\) instead of \(4, 8\)"):
        layer.pack(torch.zeros(8, 4))
    for value in (float("nan"), float("inf")):
        weight = torch.zeros(4, 8)
        weight[1, 2] = value
        with pytest.raises(FlyweightError, match="NaN or infinite"):
            layer.pack(weight)


def test_no_attribute_hides_one_of_torch_s():
    for kind in OPTIONS:
        assert made(kind, 4, 8).double().dtype == torch.float64


# --- int8 ---


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 0.02, 1e3])
@shapes
def test_int8_is_wrong_by_at_most_half_a_scale(shape, scale):
    weight = normal(*shape) * scale
    layer = Int8Linear.from_dense(weight, None)
    error = (layer.dense() - weight).abs()
    assert (error <= layer.scales.float()[:, None] * 0.5001).all()
    assert (layer.scales.float() <= weight.abs().amax(1) / 127 * 1.004).all()


def test_int8_of_what_int8_can_say_is_exact():
    codes = torch.randint(-127, 128, (20, 33), generator=torch.Generator().manual_seed(0))
    codes[:, 0] = 127
    weight = codes * torch.logspace(-6, 2, 20, base=2)[:, None].bfloat16().float()
    layer = Int8Linear.from_dense(weight, None)
    assert torch.equal(layer.codes.long(), codes)
    assert torch.equal(layer.dense(), weight)


# --- NF4 ---


def test_the_code_book_is_that_of_normal_quantiles():
    edge = 1 - 0.5 * (1 / 32 + 1 / 30)
    above = torch.special.ndtri(torch.linspace(edge, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(edge, 0.5, 8, dtype=torch.float64)[:-1])
    book = torch.cat((above, torch.zeros(1, dtype=torch.float64), below)).sort().values
    torch.testing.assert_close(
        book / book.abs().max(), torch.tensor(NF4_VALUES, dtype=torch.float64), rtol=0, atol=2e-7
    )


def unpacked(layer: NF4Linear) -> Tensor:
    return (
        torch.stack((layer.codes >> 4, layer.codes & 15), 2)
        .flatten(1)[:, : layer.in_features]
        .long()
    )


@shapes
@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if isinstance(kind, NF4)], ids=str)
def test_nf4_takes_the_nearest_code(shape, kind):
    weight = normal(*shape) * 0.02
    layer = NF4Linear.from_dense(weight, None, kind)
    book = torch.tensor(NF4_VALUES)
    scales = layer.block_scales().repeat_interleave(kind.block, 1)[:, : shape[1]]  # (out, in)
    distance = (
        weight[..., None] / torch.where(scales > 0, scales, 1)[..., None] - book
    ).abs()  # (out, in, 16)
    assert torch.equal(unpacked(layer), distance.argmin(2))
    assert torch.equal(layer.dense(), book[unpacked(layer)] * scales)


def test_nf4_of_what_nf4_can_say_is_exact():
    codes = torch.randint(16, (20, 123), generator=torch.Generator().manual_seed(0))
    codes[:, ::7] = 15
    weight = torch.tensor(NF4_VALUES)[codes] * torch.logspace(-6, 2, 20)[:, None]
    layer = NF4Linear.from_dense(weight, None, NF4(block=16, double=False))
    assert torch.equal(unpacked(layer), codes)
    assert torch.equal(layer.dense(), weight)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_nf4_equals_bitsandbytes(block):
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = normal(96, 256) * 0.02
    codes, state = functional.quantize_4bit(weight, blocksize=block, quant_type="nf4")
    layer = NF4Linear.from_dense(weight, None, NF4(block=block, double=False))
    assert torch.equal(layer.codes.view(-1), codes.view(-1))
    assert torch.equal(layer.scales.view(-1), state.absmax.view(-1))
    assert torch.equal(layer.dense(), functional.dequantize_4bit(codes, state))


@shapes
def test_double_quantization_is_wrong_by_at_most_half_a_step(shape):
    weight = normal(*shape) * 0.02
    plain, double = (
        NF4Linear.from_dense(weight, None, NF4(block=16, double=double)) for double in (False, True)
    )
    steps = (
        double.scale_ranges[1, :, 0]
        .repeat_interleave(256)[: plain.scales.numel()]
        .view_as(plain.scales)
    )
    assert ((double.block_scales() - plain.block_scales()).abs() <= steps * 0.5001 + 1e-9).all()
    assert double.scales.min() == 0
    assert double.scales.max() == (255 if plain.scales.numel() > 1 else 0)


def test_double_quantization_costs_little():
    for weight in (normal(512, 256) * 0.02, normal(512, 256) ** 3):
        errors = [
            (
                (NF4Linear.from_dense(weight, None, NF4(double=double)).dense() - weight).norm()
                / weight.norm()
            ).item()
            for double in (False, True)
        ]
        assert errors[1] < errors[0] * 1.03


# --- kernels ---


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torch's kernel is not vectorised here",
)
def test_torch_s_int8_kernel_runs_in_bfloat16_where_it_is_safe():
    assert made(Int8(), 12, 64).kernel(torch.bfloat16).name == "torch._weight_int8pack_mm"
    for shape in [(12, 63), (5, 64), (5, 123)]:
        kernel = made(Int8(), *shape).kernel(torch.bfloat16)
        assert kernel.name == REFERENCE
        assert str(shape[1]) in kernel.reason
    kernel = made(Int8(), 12, 64).kernel(torch.float32)
    assert kernel.name == REFERENCE
    assert "bfloat16" in kernel.reason


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torch's kernel is not vectorised here",
)
@pytest.mark.parametrize("shape", [(4, 16), (12, 48), (128, 272)])
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_torch_s_int8_kernel_agrees_with_the_reference(shape, rows):
    layer, x = made(Int8(), *shape), normal(rows, 2 * shape[1], seed=2).bfloat16()
    kernel = layer.kernel(torch.bfloat16)
    assert kernel.multiply
    for piece in (
        x[:, : shape[1]].contiguous(),
        x[:, 1 : 1 + shape[1]],
        x.view(-1)[3 : 3 + shape[1]][None],
    ):
        expected = layer.reference(piece).float()
        torch.testing.assert_close(
            kernel.multiply(piece, layer).float(),
            expected,
            rtol=2**-7,
            atol=2**-7 * expected.max().item(),
        )


def test_codes_that_are_not_aligned_go_to_the_reference_and_are_aligned_by_loading():
    layer, x = made(Int8(), 12, 64), normal(3, 64).bfloat16()
    expected, kernel = layer(x), layer.kernel(torch.bfloat16)
    odd = torch.zeros(12 * 64 + 64, dtype=torch.int8)
    offset = -odd.data_ptr() % 64 + 14
    moved = odd[offset : offset + 12 * 64].view(12, 64)
    moved.copy_(layer.codes)
    state = {**layer.state_dict(), "codes": moved}
    layer.codes = moved
    assert layer.kernel(torch.bfloat16).name == REFERENCE
    layer.load_state_dict(state, assign=True)
    assert layer.kernel(torch.bfloat16) == kernel
    assert torch.equal(layer(x), expected)


def test_a_kernel_that_is_wrong_or_fails_is_not_used_and_says_so(monkeypatch):
    def broken(x: Tensor, layer: Int8Linear) -> Tensor:
        raise RuntimeError("not compiled")

    wrong = Kernel("wrong", "fast", lambda x, layer: layer.reference(x) * 1.1)
    for kernel, expected in [
        (wrong, "wrong is wrong here"),
        (replace(wrong, multiply=broken), "does not run here: not compiled"),
    ]:
        monkeypatch.setattr(Int8Linear, "fast", {"cpu": DeviceKernel(kernel, lambda dtype: None)})
        choose_kernel.cache_clear()
        chosen = choose_kernel(Int8Linear, "cpu", torch.float32)
        assert chosen.name == REFERENCE
        assert expected in chosen.reason
    choose_kernel.cache_clear()


def test_a_kernel_gets_no_more_rows_than_it_is_good_for(monkeypatch):
    seen: list[int] = []

    def counting(x: Tensor, layer: Int8Linear) -> Tensor:
        seen.append(x.shape[0])
        return layer.reference(x)

    kernel = Kernel("counting", "for few rows", counting, most_rows=4)
    monkeypatch.setattr(Int8Linear, "fast", {"cpu": DeviceKernel(kernel, lambda dtype: None)})
    choose_kernel.cache_clear()
    layer = made(Int8(), 12, 64)
    for rows in (1, 4, 5, 0):
        assert layer(torch.zeros(rows, 64)).shape == (rows, 12)
    choose_kernel.cache_clear()
    assert seen[1:] == [1, 4]  # the first was the trial


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("rows", [1, 5])
def test_bitsandbytes_multiplies_as_the_reference(double, rows):
    pytest.importorskip("bitsandbytes")
    if linear_quant._nf4_refusal(torch.float32):
        pytest.skip("this bitsandbytes has no gemm_4bit")
    layer, x = made(NF4(double=double), 40, 128), normal(rows, 128, seed=2)
    torch.testing.assert_close(_nf4_multiply(x, layer), layer.reference(x))  # type: ignore[arg-type]


def test_bitsandbytes_is_refused_for_rows_of_broken_blocks():
    assert "whole blocks" in (made(NF4(), 4, 96).kernel_mismatch() or "")
    assert "blocks of 48" in (made(NF4(block=48), 4, 96).kernel_mismatch() or "")
    assert made(NF4(block=32), 4, 96).kernel_mismatch() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_the_cpu(kind, dtype):
    for shape in [(64, 128), (5, 123), (256, 512)]:
        layer, x = made(kind, *shape), normal(3, shape[1], seed=2)
        expected = layer(x)
        layer.to("cuda")
        given = x.to("cuda", dtype).requires_grad_()
        found = layer(given)
        tolerance = 8 * torch.finfo(dtype).eps * expected.abs().max().item() + 1e-6
        torch.testing.assert_close(found.float().cpu(), expected, rtol=2**-7, atol=tolerance)
        assert torch.autograd.grad(found.sum(), given)[0].isfinite().all()
        assert layer.kernel(dtype).reason
