"""Values mixed with the first layer's: the formula, gradients, sharing, causality, and what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from flyweight.config.schema import ModelConfig
from flyweight.model.block import Block
from flyweight.model.decoder import Decoder
from flyweight.model.masks import causal_mask

V, T = 19, 9
TOKENS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))


def decoder(seed: int = 0, **fields: Any) -> Decoder:
    base = {"dim": 16, "layers": 3, "init": {"std": 0.3}, "attention": {"heads": 2}}
    return Decoder(ModelConfig.model_validate({**base, **fields}).resolved(V, T), seed=seed)


def mixing(**fields: Any) -> Decoder:
    """Return a model whose scalars are not what they begin with."""
    model = decoder(attention={"heads": 2, "value_residual": True}, **fields)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if "value_residual" in name:
                parameter.copy_(torch.tensor([0.7 - 0.1 * index % 3, 0.4 + 0.05 * index]))
    return model


def scalars(model: Decoder) -> dict[str, list[float]]:
    return {
        name: parameter.tolist()
        for name, parameter in model.named_parameters()
        if "value_residual" in name
    }


def test_other_weights_are_drawn_as_without_and_scalars_begin_at_one_half() -> None:
    plain, mixed = decoder(), decoder(attention={"heads": 2, "value_residual": True})
    own = mixed.state_dict()
    assert all(torch.equal(own.pop(name), tensor) for name, tensor in plain.state_dict().items())
    assert set(own) == {f"blocks.{n}.attention.value_residual.weight" for n in (1, 2)}
    assert all(tensor.tolist() == [0.5, 0.5] for tensor in own.values())
    assert "value_residual" not in plain.config.model_dump()["attention"]


@torch.no_grad()
def test_values_of_later_layers_are_mixed_with_the_first_layers() -> None:
    model = mixing().eval()
    seen = causal_mask(0, T, None, TOKENS.device)
    x, first = model.embedding.tokens.rows(TOKENS), None
    rotation = model._rotation(x, None, 0, T)
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, read = block.attention, block.attention_norm(x)
        q, k, v = (
            getattr(attention, name)(read).view(2, T, 2, 8).transpose(1, 2) for name in "qkv"
        )
        q, k = (rotation(part.transpose(1, 2)).transpose(1, 2) for part in (q, k))
        if first is None:
            first = v
        else:
            own, other = attention.value_residual.weight
            v = own * v + other * first
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        expected = x + attention.out(y.transpose(1, 2).reshape(2, T, 16))
        expected = expected + block.mlp(block.mlp_norm(expected))
        x = expected
    torch.testing.assert_close(model.hidden(TOKENS), model.norm(x), rtol=1e-5, atol=1e-5)
    assert seen is not None


@torch.no_grad()
@pytest.mark.parametrize("times", [2, 3])
def test_later_uses_of_a_shared_layer_read_the_values_of_its_first(times: int) -> None:
    model = mixing(layers=1, sharing={"kind": "all", "times": times}).eval()
    assert list(scalars(model)) == ["blocks.0.attention.value_residual.weight"]
    seen = []
    whole = model.blocks[0].attention.value_residual
    whole.register_forward_pre_hook(lambda _, reads: seen.append(reads))
    model(TOKENS)
    assert len(seen) == times - 1
    assert all(torch.equal(first, seen[0][1]) for _, first in seen)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sharing": "cycle"},
        {"sharing": {"kind": "span", "span": [0, 1], "times": 2}},
        {"norm": {"placement": "post"}},
        {"residual": "alpha", "position": "learned"},
    ],
    ids=str,
)
def test_gradients_are_those_of_finite_differences(fields: dict[str, Any]) -> None:
    model = mixing(**fields).double()
    names = [name for name, _ in model.named_parameters()]

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(
            model, dict(zip(names, parameters, strict=True)), TOKENS
        )
        return F.cross_entropy(logits.flatten(0, 1), TOKENS.roll(-1, 1).flatten())

    values = [parameter.detach() for parameter in model.parameters()]
    gradients = torch.autograd.grad(loss(*(model.parameters())), list(model.parameters()))
    draw = torch.Generator().manual_seed(1)
    for place, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=draw, dtype=torch.float64)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [*values]
            moved[place] = values[place] + step * direction
            ends.append(loss(*moved))
        slope = (ends[0] - ends[1]).item() / 2e-6
        expected = (gradient * direction).sum().item()
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7), names[place]


def test_computing_blocks_again_gives_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    model, found = mixing().train(), []
    for recompute in (None, lambda block, *reads: checkpoint(block, *reads, use_reentrant=False)):
        model.recompute = recompute
        model.zero_grad()
        model(TOKENS).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": 1}, "no layer after the first reads its values"),
        ({"layers": 0}, "no layer after the first reads its values"),
        ({"thinking": {"passes": 2}}, "a model that thinks has several passes"),
        (
            {"blocks": {"2": {"attention": {"kv_heads": 1}}}},
            r"layer 2 has keys and values of another shape.*blocks\.2\.attention\.value_residual",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(attention={"heads": 2, "value_residual": True}, **fields)


def test_some_layers_may_mix_and_others_not() -> None:
    model = decoder(blocks={"2": {"attention": {"value_residual": True}}})
    assert list(scalars(model)) == ["blocks.2.attention.value_residual.weight"]
    without = {"1": {"attention": {"value_residual": False, "kv_heads": 1}}}
    model = decoder(attention={"heads": 2, "value_residual": True}, blocks=without)
    assert list(scalars(model)) == ["blocks.2.attention.value_residual.weight"]
    assert ModelConfig.model_validate(model.config.model_dump(mode="json")) == model.config
    with pytest.raises(ValueError, match="no layer after the first"):
        decoder(blocks={"0": {"attention": {"value_residual": True}}})
