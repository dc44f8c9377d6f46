"""Whole parts removed: the smaller model computes what the whole one does with them at zero."""

from typing import Any

import pytest
import torch

from flyweight.compression.structured import (
    score_parts,
    shrink,
    shrinking_facts,
    shrunk_config,
)
from flyweight.config.schema import NF4, LinearConfig, ModelConfig, Prune
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder

TOKENS = torch.arange(40).view(2, 20) * 7 % 100
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"mlp": {"kind": "swiglu", "hidden": 96}},
    "gpt2": {
        "mlp": {"kind": "gelu", "bias": True, "hidden": 96},
        "norm": "layernorm",
        "position": "learned",
        "attention": {"heads": 6, "bias": True, "head_dim": 8},
    },
    "grouped, gains, bottleneck": {
        "mlp": {"kind": "swiglu", "hidden": 96, "rank": 16},
        "attention": {"heads": 6, "kv_heads": 3, "head_dim": 8, "qk_norm": True, "gain": True},
    },
    "gates": {
        "mlp": {"kind": "swiglu", "hidden": 96},
        "attention": {"heads": 6, "kv_heads": 3, "head_dim": 8, "gate": True},
    },
    "values": {
        "mlp": {"kind": "swiglu", "hidden": 96},
        "attention": {"heads": 6, "kv_heads": 3, "head_dim": 8, "value_residual": True},
    },
    "shared": {"layers": 2, "sharing": {"kind": "repeat", "times": 2}, "mlp": {"hidden": 96}},
}
shapes = pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)


def decoder(**changes: Any) -> Decoder:
    fields: dict[str, Any] = {"vocab_size": 100, "context": 32, "dim": 48, "layers": 3, **changes}
    fields.setdefault("attention", {"heads": 6, "head_dim": 8})
    model = Decoder(ModelConfig.model_validate(fields), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def settings(**fields: Any) -> Prune:
    config = Prune.model_validate(
        {"stage": "prune", "input": "m", "method": "structured", **fields}
    )
    assert not config.faults()
    return config


@shapes
@pytest.mark.parametrize("score", ["magnitude", "taylor", "random"])
def test_it_computes_what_the_whole_model_does_without_these_parts(fields, score):
    model = decoder(**fields)
    groups = model.config.attention.kv_heads or 0
    shared = 6 // groups
    keep, hidden = groups - 1, 50
    config = settings(heads=keep * shared, hidden=hidden, score=score)
    small = shrink(model, config, seed=5, batches=[TOKENS])
    assert small.config.attention.heads == keep * shared
    assert small.config.attention.kv_heads == keep
    assert small.config.mlp.hidden == hidden
    scores = score_parts(model, score, 5, [TOKENS])
    size = 8 * shared
    down = "mlp.down.weight" if model.config.mlp.rank is None else "mlp.down.reduce.weight"
    with torch.no_grad():
        for layer in range(model.config.layers):
            out = model.get_parameter(f"blocks.{layer}.attention.out.weight")
            gone = int(scores.groups[layer].argmin())
            out[:, gone * size : (gone + 1) * size] = 0
            matrix = model.get_parameter(f"blocks.{layer}.{down}")
            matrix[:, scores.channels[layer].argsort()[: 96 - hidden]] = 0
        assert torch.allclose(small(TOKENS), model(TOKENS), atol=1e-5)


def test_whole_layers_go():
    model = decoder(layers=4)
    small = shrink(model, settings(layers=[0, 2, 3]))
    assert small.config.layers == 3
    with torch.no_grad():
        for name in ("attention.out", "mlp.down"):
            model.get_parameter(f"blocks.1.{name}.weight").zero_()
        assert torch.allclose(small(TOKENS), model(TOKENS), atol=1e-5)
    by_number = shrink(model, settings(layers=3))  # layer 1 writes nothing any more
    state = by_number.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())


def test_taylor_finds_the_part_that_the_loss_feels():
    model = decoder()
    with torch.no_grad():
        for layer in range(3):  # large weights that nothing reaches, small ones that matter
            out = model.get_parameter(f"blocks.{layer}.attention.out.weight")
            value = model.get_parameter(f"blocks.{layer}.attention.v.weight")
            out[:, :8] *= 20
            value[:8] = 0
    assert (score_parts(model, "magnitude").groups.argmax(1) == 0).all()
    assert (score_parts(model, "taylor", batches=[TOKENS]).groups.argmin(1) == 0).all()


def test_what_it_saves():
    model = decoder()
    small = shrink(model, settings(heads=3, hidden=64))
    facts = shrinking_facts(model.config, small.config)
    assert facts["parameters_before"] == sum(tensor.numel() for tensor in model.parameters())
    assert facts["parameters"] == sum(tensor.numel() for tensor in small.parameters())
    assert facts["forward_flops"] < facts["forward_flops_before"]


REFUSED = {
    "not fewer heads": ({}, {"heads": 6}, "not fewer"),
    "not fewer channels": ({}, {"hidden": 5000}, "not fewer"),
    "not fewer layers": ({}, {"layers": 3}, "not fewer"),
    "outside": ({}, {"layers": [0, 7]}, "outside the model's 3 layers"),
    "half a group": ({"attention": {"heads": 6, "kv_heads": 3}}, {"heads": 3}, "multiple of 2"),
    "shared": ({"layers": 2, "sharing": "repeat"}, {"layers": 1}, "layers are shared"),
    "skips": ({"skips": "embedding"}, {"layers": 2}, "read earlier ones by their place"),
    "values": (
        {"attention": {"heads": 6, "value_residual": True}},
        {"layers": 2},
        "read the values of the first",
    ),
    "packed": ({"linears": {"blocks": NF4()}}, {"heads": 3}, "stored as nf4"),
    "adapters": ({"adapters": ["lora"]}, {"heads": 3}, "merge them first"),
    "differing": ({"blocks": {"1": {"mlp": {"hidden": 32}}}}, {"heads": 3}, "differ already"),
}


@pytest.mark.parametrize(("model", "fields", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_shrink_is_refused_by_the_config_alone(model, fields, words):
    base: dict[str, Any] = {"vocab_size": 100, "context": 32, "dim": 48, "layers": 3}
    base["attention"] = {"heads": 6}
    config = ModelConfig.model_validate(base | model).resolved()
    with pytest.raises(RequestError, match=words):
        shrunk_config(config, settings(**fields))


def test_a_baseline_has_no_heads():
    with pytest.raises(RequestError, match="only decoders"):
        shrunk_config(
            LinearConfig(kind="linear", dim=8, vocab_size=50, context=8), settings(heads=1)
        )


FAULTS = {
    "nothing": ({}, "say how many"),
    "sparsity": ({"heads": 2, "sparsity": 0.5}, "leave sparsity out"),
    "scope": ({"heads": 2, "scope": "global"}, "leave them out"),
    "twice": ({"layers": [1, 1]}, "once"),
    "other method": ({"method": "magnitude", "sparsity": 0.5, "heads": 2}, "method: structured"),
    "other score": ({"method": "magnitude", "sparsity": 0.5, "score": "taylor"}, "own"),
    "unread": ({"heads": 2, "calibration": {"tokens": 512}}, "reads no text"),
}


@pytest.mark.parametrize(("fields", "words"), FAULTS.values(), ids=FAULTS)
def test_contradictions_between_fields(fields, words):
    raw = {"stage": "prune", "input": "m", "method": "structured", **fields}
    faults = Prune.model_validate(raw).faults()
    assert any(words in fault for fault in faults), faults
