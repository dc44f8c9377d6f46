from typing import Any

import pytest
import torch
import torch.nn.functional as F

from flyweight.config.schema import ModelConfig
from flyweight.model import mlp
from flyweight.model.decoder import Decoder
from flyweight.model.init import initialise


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({"kind": "gelu"}, lambda u: u * 0.5 * (1 + torch.erf(u / 2**0.5))),
        (
            {"kind": "gelu", "approximate": "tanh"},
            lambda u: u * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3))),
        ),
        ({"kind": "relu2"}, lambda u: torch.where(u > 0, u**2, 0)),
        ({"kind": "relu"}, lambda u: torch.where(u > 0, u, 0)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_up_activation_down(options: dict[str, Any], activation: Any, bias: bool) -> None:
    layer, x = built({**options, "bias": bias}), torch.randn(2, 3, 8)
    torch.testing.assert_close(layer(x), layer.down(activation(layer.up(x))), rtol=1e-5, atol=1e-5)
    assert (layer.up.bias is not None) == bias


@torch.no_grad()
def test_swiglu_gates() -> None:
    layer, x = built({"kind": "swiglu", "hidden": 5}), torch.randn(2, 3, 8)
    gate = layer.gate(x)
    torch.testing.assert_close(
        layer(x), layer.down(gate * gate.sigmoid() * layer.up(x)), rtol=1e-5, atol=1e-5
    )
    assert layer.down.in_features == 5


@pytest.mark.parametrize(
    ("options", "product"),
    [
        ({"kind": "geglu"}, lambda g, u: F.gelu(g) * u),
        ({"kind": "geglu", "approximate": "tanh"}, lambda g, u: F.gelu(g, approximate="tanh") * u),
        ({"kind": "double_relu"}, lambda g, u: g.clamp(min=0) * u.clamp(min=0)),
        ({"kind": "double_silu"}, lambda g, u: g * g.sigmoid() * u * u.sigmoid()),
    ],
)
@torch.no_grad()
def test_gates(options: dict[str, Any], product: Any) -> None:
    layer, x = built({**options, "bias": True}), torch.randn(2, 3, 8)
    torch.testing.assert_close(
        layer(x), layer.down(product(layer.gate(x), layer.up(x))), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_a_bottleneck_is_a_product_of_two_matrices_with_the_std_of_one() -> None:
    layer, x = built({"kind": "relu", "hidden": 400, "rank": 4, "bias": True}), torch.randn(2, 3, 8)
    assert [tuple(p.shape) for p in layer.up.parameters()] == [(4, 8), (400, 4), (400,)]
    up = x @ (layer.up.expand.weight @ layer.up.reduce.weight).T + layer.up.expand.bias
    torch.testing.assert_close(layer.up(x), up, rtol=1e-5, atol=1e-5)
    fields = {"vocab_size": 9, "context": 8, "dim": 64, "layers": 1, "init": {"std": 0.5}}
    model = Decoder(
        ModelConfig.model_validate(
            {**fields, "mlp": {"kind": "relu", "rank": 8}, "embedding": {"rank": 4}}
        )
    )
    up = model.get_submodule("blocks.0.mlp.up")
    assert (up.expand.weight @ up.reduce.weight).std().item() == pytest.approx(0.5, rel=0.15)
    embedding = model.embedding.expand(model.embedding.tokens.dense())
    assert embedding.std().item() == pytest.approx(0.5, rel=0.5)


def built(options: dict[str, Any]) -> mlp.Mlp:
    fields = {
        "vocab_size": 9,
        "context": 8,
        "dim": 8,
        "layers": 1,
        "mlp": options,
        "init": {"std": 1.0},
    }
    config = ModelConfig.model_validate(fields).resolved()
    layer = mlp.build(config, "blocks.0.mlp")
    initialise(layer, config, 0)
    return layer
