from typing import Any

import pytest
import torch

from flyweight.config.schema import ModelConfig
from flyweight.model import mlp
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
    torch.testing.assert_close(layer(x), layer.down(gate * gate.sigmoid() * layer.up(x)), rtol=1e-5, atol=1e-5)
    assert layer.down.in_features == 5


def built(options: dict[str, Any]) -> mlp.Mlp:
    fields = {"vocab_size": 9, "context": 8, "dim": 8, "layers": 1, "mlp": options, "init": {"std": 1.0}}
    config = ModelConfig.model_validate(fields).resolved()
    layer = mlp.build(config, "blocks.0.mlp")
    initialise(layer, config, 0)
    return layer
