from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from flyweight.config.schema import ModelConfig
from flyweight.model.attention import Attention, reach
from flyweight.model.decoder import Decoder
from flyweight.model.init import initialise

CPU = torch.device("cpu")


def attention(**fields: Any) -> Attention:
    base = {"vocab_size": 9, "context": 8, "dim": 12, "layers": 1, "position": "learned"}
    config = ModelConfig.model_validate({**base, "attention": fields}).resolved()
    layer = Attention(config, "blocks.0.attention")
    initialise(layer, config, 0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return layer


def test_training_needs_no_mask() -> None:
    assert reach(0, 5, None, CPU).causal and reach(0, 5, None, CPU).mask is None


def test_one_cached_token_sees_everything_before_it() -> None:
    step = reach(4, 1, None, CPU)
    assert not step.causal and step.mask is None


def test_a_cached_chunk_sees_the_past_and_itself() -> None:
    step = reach(2, 3, None, CPU)
    assert not step.causal and step.mask is not None
    assert step.mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_padding_is_seen_by_nobody_but_itself() -> None:
    padded = reach(0, 4, torch.tensor([[False, False, True, True]]), CPU)
    assert padded.mask is not None
    assert padded.mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


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
    torch.testing.assert_close(layer(x, reach(0, 5, None, CPU), None, None)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_training_takes_the_flash_kernel_of_the_cpu(kv_heads: int) -> None:
    heads = {"heads": 4, "kv_heads": kv_heads}
    model = Decoder(ModelConfig.model_validate({"vocab_size": 9, "context": 8, "dim": 16, "layers": 1, "attention": heads}))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(torch.zeros(2, 8, dtype=torch.long)).sum().backward()
    names = {event.key for event in profiler.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names


def test_dropout_acts_in_training_only() -> None:
    config = ModelConfig.model_validate({"vocab_size": 9, "context": 8, "dim": 16, "layers": 1, "dropout": {"attention": 0.5}})
    model, tokens = Decoder(config), torch.arange(8)[None]
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))
