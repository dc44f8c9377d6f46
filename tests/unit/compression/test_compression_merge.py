"""Merging: what an adapted model computes is what the merged one does, and what is refused."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from flyweight.compression.merge import merge, merged
from flyweight.compression.quantize import quantize
from flyweight.config.schema import NF4, Adapter, Int8, ModelConfig
from flyweight.errors import RequestError
from flyweight.model.attach import attach
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.spec.adapters import adapter_tensors

TOKENS = torch.arange(18).view(2, 9) * 7 % 40
LINEAR: dict[str, list[Any]] = {
    "joint": [{"kind": "lora", "targets": ["attention.qkv", "mlp.gate_up"], "r": 3}],
    "apart": [{"kind": "lora", "targets": ["attention", "mlp"], "r": 3, "alpha": 6}],
    "rslora": [{"kind": "rslora", "targets": ["*.q", "*.v"], "r": 4, "dropout": 0.3}],
    "dora": [{"kind": "dora", "targets": ["attention.qkv", "mlp.down"], "r": 3}],
    "ia3": ["ia3"],
    "together": [
        {"kind": "dora", "targets": ["attention.qkv"], "r": 2},
        "ia3",
        {"kind": "lora", "targets": ["mlp.down"], "r": 2},
    ],
}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "norm": "layernorm", "attention": {"heads": 4, "bias": True}},
    "llama": {"attention": {"heads": 4, "kv_heads": 2, "qk_norm": True}},
    "shared": {"sharing": {"kind": "cycle", "times": 2}},
    "low rank": {"mlp": {"kind": "relu", "rank": 6, "bias": True}},
}


def adapted(adapters: list[Any], base: Model | None = None, **fields: Any) -> Decoder:
    """Return a model whose adapters change something."""
    sizes = {"vocab_size": 40, "context": 12, "dim": 16, "layers": 2, "init": {"std": 0.2}}
    base = base or Decoder(ModelConfig.model_validate({**sizes, **fields}), seed=1).eval()
    reader: TypeAdapter[tuple[Adapter, ...]] = TypeAdapter(tuple[Adapter, ...])
    model = attach(base, reader.validate_python(adapters))
    generator = torch.Generator().manual_seed(3)
    names = {tensor.name for tensor in adapter_tensors(model.config)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", LINEAR)
def test_a_merged_model_computes_the_same(kind: str, shape: str) -> None:
    adapters = LINEAR["apart"] if (kind, shape) == ("joint", "low rank") else LINEAR[kind]
    model = adapted(adapters, **SHAPES[shape])
    plain = merge(model)
    base = Decoder(plain.config, seed=1).eval()
    assert error(plain(TOKENS), model(TOKENS)) < 1e-5
    assert error(base(TOKENS), model(TOKENS)) > 1e-2
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert plain.config.adapters == ()


def test_the_model_itself_stays_as_it_is() -> None:
    model = adapted(LINEAR["together"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in merge(model).parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_packed_base_is_unpacked_when_that_is_asked_for() -> None:
    base = Decoder(adapted([]).config, seed=1).eval()
    model = adapted(LINEAR["together"], quantize(base, NF4(), Int8()))
    with pytest.raises(RequestError, match=r"attention\.q is stored as nf4.*--unpack"):
        merge(model)
    plain = merge(model, unpack=True)
    assert plain.config.linears == {}
    assert error(plain(TOKENS), model(TOKENS)) < 1e-5


def test_packed_tables_stay_packed() -> None:
    base = Decoder(adapted([]).config, seed=1).eval()
    tables = Decoder(base.config.model_copy(update={"linears": {"embedding": Int8()}}), 1).eval()
    plain = merge(adapted(LINEAR["joint"], tables))
    assert plain.config.linears == {"embedding": Int8()}


def test_half_precision_is_summed_in_float32() -> None:
    model = adapted(LINEAR["apart"])
    exact = merge(model).state_dict()
    half = merge(model.bfloat16()).state_dict()
    name = "blocks.0.attention.q.weight"
    assert half[name].dtype == torch.bfloat16
    assert error(half[name].float(), exact[name]) < 4e-3


@pytest.mark.parametrize(
    ("adapters", "fields", "words"),
    [
        ([], {}, "no adapters"),
        (["prefix"], {}, "becomes part of no matrix"),
        (["lora", "bottleneck"], {}, "an activation between"),
        (
            [{"kind": "lora", "per": "visit"}],
            {"sharing": {"kind": "repeat", "times": 3}},
            "used 3 times",
        ),
    ],
)
def test_what_cannot_be_merged_says_why(
    adapters: list[Any], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        merged(adapted(adapters, **fields).config)


def test_an_adapter_for_each_visit_of_a_layer_that_is_visited_once_is_merged() -> None:
    model = adapted([{"kind": "lora", "per": "visit"}])
    assert error(merge(model)(TOKENS), model(TOKENS)) < 1e-5
