from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from flyweight.config.schema import ModelConfig
from flyweight.config.speed import AttentionName
from flyweight.model.attention import AttentionLayer, _row_by_row, attend, attention_kernel
from flyweight.model.decoder import Decoder
from flyweight.model.dropout import Dropout, number_rows
from flyweight.model.init import initialise
from flyweight.model.masks import WHOLE, AttentionMask, TokenSpan, causal_mask

CPU = torch.device("cpu")


def attention(**fields: Any) -> AttentionLayer:
    base = {"vocab_size": 9, "context": 8, "dim": 12, "layers": 1, "position": "learned"}
    config = ModelConfig.model_validate({**base, "attention": fields}).resolved()
    layer = AttentionLayer(config, "blocks.0.attention")
    initialise(layer, config, 0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return layer


def test_training_needs_no_mask() -> None:
    assert causal_mask(0, 5, None, CPU).causal and causal_mask(0, 5, None, CPU).mask is None


def test_one_cached_token_sees_everything_before_it() -> None:
    step = causal_mask(4, 1, None, CPU)
    assert not step.causal and step.mask is None


def test_a_cached_chunk_sees_the_past_and_itself() -> None:
    step = causal_mask(2, 3, None, CPU)
    assert not step.causal and step.mask is not None
    assert step.mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_padding_is_seen_by_nobody_but_itself() -> None:
    padded = causal_mask(0, 4, torch.tensor([[False, False, True, True]]), CPU)
    assert padded.mask is not None
    assert padded.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


@pytest.mark.parametrize("options", [{}, {"gain": True}, {"qk_norm": True}, {"bias": True}])
@torch.no_grad()
def test_grouped_query_attention_written_out(options: dict[str, Any]) -> None:
    layer = attention(heads=4, kv_heads=2, head_dim=3, **options)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2))
    q = layer.q(x).view(2, 5, 4, 3)
    k, v = layer.k(x).view(2, 5, 2, 3), layer.v(x).view(2, 5, 2, 3)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = layer.q_norm(q), layer.k_norm(k)
    if layer.gain is not None:
        q = torch.stack([q[:, :, head] * layer.gain[head] for head in range(4)], 2)
    heads = []
    for head in range(4):
        scores = q[:, :, head] @ k[:, :, head // 2].transpose(1, 2) / 3**0.5  # (B, T, T)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        heads.append(scores.softmax(-1) @ v[:, :, head // 2])
    expected = layer.out(torch.cat(heads, -1))
    torch.testing.assert_close(
        layer(x, causal_mask(0, 5, None, CPU), None, None)[0], expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_training_takes_the_flash_kernel_of_the_cpu(kv_heads: int) -> None:
    heads = {"heads": 4, "kv_heads": kv_heads}
    model = Decoder(
        ModelConfig.model_validate(
            {"vocab_size": 9, "context": 8, "dim": 16, "layers": 1, "attention": heads}
        )
    )
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(torch.zeros(2, 8, dtype=torch.long)).sum().backward()
    names = {event.key for event in profiler.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names


def test_dropout_acts_in_training_only() -> None:
    config = ModelConfig.model_validate(
        {"vocab_size": 9, "context": 8, "dim": 16, "layers": 1, "dropout": {"attention": 0.5}}
    )
    model, tokens = Decoder(config), torch.arange(8)[None]
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


@pytest.mark.parametrize(("kv_heads", "length"), [(4, 5), (2, 33), (1, 64)])
def test_short_windows_train_in_bfloat16_written_out(kv_heads: int, length: int) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = [(2, heads, length, 16) for heads in (4, kv_heads, kv_heads)]
    exact = [torch.randn(s, generator=generator).requires_grad_() for s in shape]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    weight = torch.randn(2, 4, length, 16, generator=generator)
    plain = F.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=kv_heads != 4)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        short = attend(*rounded, causal_mask(0, length, None, CPU))  # pyright: ignore[reportCallIssue]
    assert "aten::baddbmm" in {event.key for event in trace.key_averages()}
    torch.testing.assert_close(short.float(), plain, rtol=0.05, atol=0.05)
    for mine, theirs in zip(
        torch.autograd.grad((short.float() * weight).sum(), rounded),
        torch.autograd.grad((plain * weight).sum(), exact),
        strict=True,
    ):
        assert (mine.float() - theirs).norm() < 0.02 * theirs.norm()


def test_written_out_attention_never_looks_ahead() -> None:
    q, k, v = (
        torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(n)).bfloat16()
        for n in range(3)
    )
    q.requires_grad_()
    seen = attend(q, k, v, causal_mask(0, 9, None, CPU))
    k[:, :, 6:] += 3
    v[:, :, 6:] -= 2
    changed = attend(q, k, v, causal_mask(0, 9, None, CPU))
    assert torch.equal(seen[:, :, :6], changed[:, :, :6]) and not torch.equal(
        seen[:, :, 6:], changed[:, :, 6:]
    )


def test_scores_are_not_kept_where_nothing_trains() -> None:
    q, k, v = (torch.randn(1, 2, 9, 8).bfloat16() for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        attend(q, k, v, causal_mask(0, 9, None, CPU))
    assert "aten::baddbmm" not in {event.key for event in trace.key_averages()}


@pytest.mark.parametrize("name", ["auto", "eager", "math", "flash"])
@pytest.mark.parametrize("kv_heads", [1, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_every_kernel_reads_the_same(name: AttentionName, kv_heads: int, start: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, kv_heads, 5 + start, 8, generator=generator)
    real = torch.ones(2, 5 + start, dtype=torch.bool)
    real[0, :2] = False
    for mask in (causal_mask(start, 5, None, CPU), causal_mask(start, 5, real, CPU)):
        expected = attend(q, k, v, mask)
        with attention_kernel(name):
            torch.testing.assert_close(attend(q, k, v, mask), expected)
    step = causal_mask(start + 4, 1, None, CPU)
    expected = attend(q[:, :, :1], k, v, step)
    with attention_kernel(name):
        torch.testing.assert_close(attend(q[:, :, :1], k, v, step), expected)


def documents_mask(length: int) -> AttentionMask:
    starts = torch.tensor([[0] * length, [0] * 3 + [3] * (length - 3)])
    return TokenSpan(0, length, None, starts, CPU).mask(None, 0, WHOLE, 1, 0)


DROPPED_MASKS = {
    "causal": lambda length: AttentionMask(causal=True),
    "all": lambda length: AttentionMask(causal=False),
    "documents": documents_mask,
    "two keys": lambda length: documents_mask(length).for_two_keys_per_token(length, CPU),
    "prefix": lambda length: AttentionMask(causal=True).behind_prefix(2, length, CPU),
}


def dropped_case(name: str, kv_heads: int) -> tuple[list[torch.Tensor], AttentionMask]:
    mask = DROPPED_MASKS[name](6)
    keys = 6 if mask.mask is None else mask.mask.shape[-1]
    generator = torch.Generator().manual_seed(3)
    shapes = (2, 4, 6, 8), (2, kv_heads, keys, 8), (2, kv_heads, keys, 8)
    return [torch.randn(shape, generator=generator) for shape in shapes], mask


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", DROPPED_MASKS)
def test_written_out_with_dropout_it_sees_what_the_fused_kernel_sees(name, kv_heads) -> None:
    tensors, mask = dropped_case(name, kv_heads)
    torch.testing.assert_close(attend(*tensors, mask, Dropout(0.0)), attend(*tensors, mask))
    assert not torch.allclose(attend(*tensors, mask, Dropout(0.5)), attend(*tensors, mask))


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", DROPPED_MASKS)
def test_row_by_row_the_fused_kernel_drops_the_same_in_any_batch(
    name, kv_heads, monkeypatch
) -> None:
    """As on CUDA, with the CPU's generator in the place of the device's."""
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork([]))
    monkeypatch.setattr(torch.cuda, "default_generators", [torch.default_generator])
    tensors, mask = dropped_case(name, kv_heads)
    found = []
    for rows in (slice(0, 2), slice(1, 2)):
        own = mask
        if mask.mask is not None and len(mask.mask) > 1:
            own = replace(mask, mask=mask.mask[rows], _additive={})
        drop = Dropout(0.5)
        number_rows([drop], rows.start)
        torch.manual_seed(0)
        found.append(_row_by_row(*(t[rows] for t in tensors), own, drop))
    assert torch.equal(found[0][1:], found[1])
    assert not torch.allclose(found[0], attend(*tensors, mask))
    torch.testing.assert_close(_row_by_row(*tensors, mask, Dropout(0.0)), attend(*tensors, mask))


@torch.no_grad()
def test_a_gate_multiplies_what_a_head_has_read() -> None:
    layer = attention(heads=4, kv_heads=2, head_dim=3, gate=True)
    assert layer.gate is not None
    x, seen = torch.randn(2, 6, 12), causal_mask(0, 6, None, CPU)
    read = []
    handle = layer.out.register_forward_pre_hook(lambda _, reads: read.append(reads[0]))
    gated = layer(x, seen, None, None)[0]
    factors = 2 * (x @ layer.gate.weight.T).sigmoid()  # (B, T, H)
    layer.gate = None
    plain = layer(x, seen, None, None)[0]
    expected = read[1].view(2, 6, 4, 3) * factors[..., None]
    torch.testing.assert_close(read[0].view(2, 6, 4, 3), expected)
    handle.remove()
    assert not torch.allclose(gated, plain)


def test_gates_begin_open_and_all_other_weights_are_those_without() -> None:
    sizes = {"vocab_size": 9, "context": 8, "dim": 12, "layers": 2}
    built = [
        Decoder(ModelConfig.model_validate({**sizes, "attention": {"heads": 2, **gate}}), seed=3)
        for gate in ({}, {"gate": True})
    ]
    plain, gated = (model.state_dict() for model in built)
    gates = {name: tensor for name, tensor in gated.items() if name not in plain}
    assert list(gates) == [f"blocks.{layer}.attention.gate.weight" for layer in (0, 1)]
    assert all(tensor.shape == (2, 12) and not tensor.any() for tensor in gates.values())
    assert all(torch.equal(gated[name], tensor) for name, tensor in plain.items())
    tokens = torch.arange(8)[None] % 9
    assert torch.equal(built[0](tokens), built[1](tokens))
    built[1](tokens).square().sum().backward()
    weights = [built[1].get_parameter(name) for name in gates]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    assert "gate" not in built[0].config.model_dump()["attention"]


def test_a_gates_gradient_is_that_of_finite_differences() -> None:
    layer = attention(heads=2, gate=True).double()
    x, seen = torch.randn(2, 6, 12, dtype=torch.float64), causal_mask(0, 6, None, CPU)
    assert layer.gate is not None
    weight = layer.gate.weight

    def loss(value: torch.Tensor) -> torch.Tensor:
        state = {"gate.weight": value}
        y, _ = torch.func.functional_call(layer, state, (x, seen, None, None))
        return y.square().sum()

    assert torch.autograd.gradcheck(loss, (weight.detach().clone().requires_grad_(),))


def test_gates_are_quantized_and_adapted_as_other_matrices_are() -> None:
    fields = {"vocab_size": 9, "context": 8, "dim": 12, "layers": 2}
    config = ModelConfig.model_validate(
        {
            **fields,
            "attention": {"heads": 2, "gate": True},
            "linears": {"blocks.*.attention.gate": "int8"},
            "adapters": [{"kind": "lora", "targets": ["attention.gate"], "r": 2}],
        }
    )
    model = Decoder(config)
    assert type(model.blocks[1].attention.gate).__name__ == "Int8Linear"
    assert [name for name, _ in model.named_parameters() if "gate.lora" in name]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad)
