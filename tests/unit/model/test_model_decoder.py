from typing import Any

import pytest
import torch

from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder


def decoder(seed: int = 0, **fields: Any) -> Decoder:
    return Decoder(
        ModelConfig.model_validate(
            {"vocab_size": 9, "context": 8, "dim": 16, "layers": 2, **fields}
        ),
        seed,
    )


def test_logits_are_the_head_on_the_hidden_states() -> None:
    tokens = torch.arange(8)[None]
    for tied in (True, False):
        model = decoder(embedding={"tied": tied}, head={"softcap": 0.1})
        read, weight, bias = model.output(model.hidden(tokens))
        assert bias is None
        raw = read @ weight.T
        torch.testing.assert_close(model(tokens), 0.1 * torch.tanh(raw / 0.1))
        assert model.softcap == 0.1
        assert (weight is model.embedding.tokens.dense()) == tied
        assert ("head.linear.weight" in model.state_dict()) == (not tied)


def test_gradients_reach_a_tied_weight_from_both_ends() -> None:
    model = decoder(layers=0)
    model(torch.tensor([[0]])).logsumexp(-1).sum().backward()
    grad = model.embedding.tokens.dense().grad
    assert grad is not None and grad[1:].any(1).all()


def test_dropout_of_each_place() -> None:
    tokens = torch.arange(8)[None]
    for place in ("embedding", "attention", "residual"):
        model = decoder(dropout={place: 0.5}, init={"std": 0.5})
        torch.manual_seed(0)
        assert not torch.equal(model(tokens), model(tokens))
        assert torch.equal(model.eval()(tokens), model(tokens))


def test_a_config_that_leaves_sizes_open_is_refused() -> None:
    with pytest.raises(RequestError, match="vocab_size and context"):
        Decoder(ModelConfig(dim=16, layers=1))


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        (torch.zeros(8, dtype=torch.long), None, "tokens: the shape is"),
        (torch.zeros(1, 0, dtype=torch.long), None, "non-empty"),
        (
            torch.zeros(1, 9, dtype=torch.long),
            None,
            "context: a sequence of 9 tokens is longer than the 8 positions",
        ),
        (torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool), "mask: "),
        (torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4), "mask: torch.float32"),
    ],
)
def test_impossible_input_is_refused_in_words(
    tokens: torch.Tensor, mask: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        decoder(position="learned")(tokens, mask=mask)


def test_rope_goes_on_past_the_context() -> None:
    assert decoder()(torch.zeros(1, 20, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize(
    "fields",
    [{}, {"norm": "layernorm", "mlp": "gelu"}, {"attention": {"qk_norm": True, "gain": True}}],
)
def test_autocast_trains_in_bfloat16_with_float32_weights(fields: dict[str, Any]) -> None:
    model, tokens = decoder(**fields), torch.arange(8)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.hidden(tokens)
        logits = model.logits(hidden)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(tokens), rtol=0.05, atol=0.02)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_bfloat16_model_stays_bfloat16() -> None:
    model = decoder(attention={"qk_norm": True}, linears={"embedding": "int8"}).bfloat16()
    assert model(torch.arange(8)[None]).dtype == torch.bfloat16
