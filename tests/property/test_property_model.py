"""What must hold for every decoder, over a pairwise sample of valid configs."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from allpairspy import AllPairs
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config.schema import ModelConfig
from flyweight.model import cost, folder
from flyweight.model.decoder import Decoder
from flyweight.model.linear import Int8Linear, Linear, NF4Linear

LENGTH = 11
FIELDS: dict[str, list[Any]] = {
    "position": [
        "learned",
        "rope",
        {"kind": "rope", "fraction": 0.5},
        {"kind": "rope", "base": 500, "scaling": {"kind": "linear", "factor": 4}},
        {"kind": "rope", "scaling": {"kind": "ntk", "factor": 4}},
        {"kind": "rope", "scaling": {"kind": "llama3", "factor": 8, "original_context": 16}},
        {"kind": "rope", "fraction": 0.5, "scaling": {"kind": "ntk", "factor": 2}},
        {"kind": "rope", "base": 1e6},
    ],
    "sharing": ["none", "repeat", {"kind": "repeat", "times": 3}, {"kind": "cycle", "times": 2}],
    "mlp": [
        "gelu",
        {"kind": "gelu", "bias": True, "hidden": 13},
        {"kind": "gelu", "approximate": "tanh", "bias": True},
        "relu2",
        {"kind": "relu2", "hidden": 7, "bias": True},
        "swiglu",
        {"kind": "swiglu", "hidden": 17},
        {"kind": "swiglu", "hidden": 32, "bias": True},
    ],
    "heads": [
        {"heads": 3, "kv_heads": 3, "head_dim": 4},
        {"heads": 4, "kv_heads": 2, "head_dim": 8},
        {"heads": 5, "kv_heads": 1, "head_dim": 12},
        {"heads": 1, "kv_heads": 1, "head_dim": 20},
    ],
    "norm": ["layernorm", {"kind": "layernorm", "bias": False}, "rmsnorm", {"kind": "rmsnorm", "eps": 1e-3}],
    "bigram": ["none", "exact", {"kind": "hashed", "buckets": 37}],
    "linears": [
        {},
        {"*": "int8"},
        {"embedding": "int8", "*": {"kind": "nf4", "block": 16}},
        {"blocks.*.mlp": {"kind": "nf4", "double": False}, "blocks.0.*": "int8"},
    ],
    "biases": [{}, {"bias": True}, {"out_bias": True}, {"bias": True, "out_bias": False}],
    "dim": [24, 33],
    "layers": [0, 1, 2],
    "vocab": [3, 50],
    "qk_norm": [False, True],
    "gain": [False, True],
    "tied": [True, False],
    "softcap": [None, 3.0],
    "zero_out": [False, True],
}
ROWS: list[list[Any]] = [list(row) for row in AllPairs(list(FIELDS.values()))]


def config_of(row: list[Any]) -> ModelConfig:
    value = dict(zip(FIELDS, row, strict=True))
    return ModelConfig.model_validate(
        {
            "vocab_size": value["vocab"],
            "context": 16,
            "dim": value["dim"],
            "layers": value["layers"],
            "attention": {**value["heads"], **value["biases"], "qk_norm": value["qk_norm"], "gain": value["gain"]},
            "position": value["position"],
            "mlp": value["mlp"],
            "sharing": value["sharing"],
            "norm": value["norm"],
            "embedding": {"tied": value["tied"], "bigram": value["bigram"]},
            "head": {"softcap": value["softcap"]},
            "init": {"std": 0.2, "zero_out": value["zero_out"]},
            "linears": value["linears"],
        }
    )


CONFIGS = [config_of(row) for row in ROWS]
every_config = pytest.mark.parametrize("index", range(len(CONFIGS)))


@cache
def model_of(index: int, dtype: torch.dtype) -> Decoder:
    """Return a model in which nothing is zero or one by initialisation, so that every part shows in the logits."""
    model = Decoder(CONFIGS[index], seed=index)
    generator = torch.Generator().manual_seed(index)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (Int8Linear, NF4Linear)):
                module.pack(torch.randn(module.out_features, module.in_features, generator=generator) * 0.2)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.to(dtype).eval()


def tokens_of(index: int, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 + index)
    return torch.randint(CONFIGS[index].vocab_size or 0, (rows, LENGTH), generator=generator)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    scale = max(1.0, expected.abs().max().item())
    return (found - expected).abs().max().item() <= tolerance * scale


def test_sample_is_pairwise_and_large_enough() -> None:
    assert len(CONFIGS) >= 60
    seen = {(i, j, str(row[i]), str(row[j])) for row in ROWS for i in range(len(row)) for j in range(i)}
    values = list(FIELDS.values())
    wanted = {(i, j, str(a), str(b)) for i in range(len(values)) for j in range(i) for a in values[i] for b in values[j]}
    assert seen == wanted


@every_config
def test_counted_parameters_are_built(index: int) -> None:
    config = CONFIGS[index]
    with torch.device("meta"):
        model = Decoder(config)
    packed = [module for module in model.modules() if isinstance(module, (Int8Linear, NF4Linear))]
    built = sum(p.numel() for p in model.parameters()) + sum(layer.in_features * layer.out_features for layer in packed)
    found = cost.parameters(config)
    assert found.unique == built == sum(found.by_part.values())
    twice = sum(p.numel() for p in model.blocks.parameters()) + sum(
        layer.in_features * layer.out_features for name, layer in model.blocks.named_modules() if layer in packed
    )
    times = len(model.visits) // max(1, config.layers)
    assert found.total == found.unique + (times - 1) * twice if config.layers else found.total == found.unique
    assert cost.weight_bytes(config, 4) == sum(tensor.nbytes for tensor in model.state_dict().values())


@every_config
def test_flops_are_those_of_the_flop_counter(index: int) -> None:
    config = CONFIGS[index]
    with torch.device("meta"):
        model, tokens = Decoder(config), torch.zeros(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        model(tokens)
    assert forward.get_total_flops() == cost.forward_flops(config, LENGTH)
    # Packed layers multiply their gradients in place, which the counter does not know by itself.
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **others: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as training:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert training.get_total_flops() == cost.training_flops(config, LENGTH)


@every_config
@torch.no_grad()
def test_no_logit_depends_on_a_later_token(index: int) -> None:
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    changed, vocab = tokens.clone(), CONFIGS[index].vocab_size or 0
    changed[:, 6:] = (changed[:, 6:] + 1) % vocab
    before, after = model(tokens), model(changed)
    assert before.shape == (2, LENGTH, vocab)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6], after[:, 6])


@every_config
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_cached_equals_uncached(index: int, dtype: torch.dtype, tolerance: float) -> None:
    model, tokens = model_of(index, dtype), tokens_of(index)
    cache, parts = model.new_cache(2, LENGTH), []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9), (9, LENGTH)):
        parts.append(model(tokens[:, start:stop], cache))
    assert cache.length == LENGTH
    assert close(torch.cat(parts, 1), model(tokens), tolerance)


@every_config
@torch.no_grad()
def test_left_padding_changes_nothing(index: int) -> None:
    model, tokens = model_of(index, torch.float64), tokens_of(index)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :3] = False
    expected = torch.cat((model(tokens[:1, 3:]), model(tokens[1:, 3:])))
    expected[1] = model(tokens[1:])[0, 3:]
    assert close(model(tokens, mask=mask)[:, 3:], expected, 1e-10)
    cache, parts = model.new_cache(2, LENGTH), []
    for start, stop in ((0, 2), (2, 5), (5, 6), (6, LENGTH)):
        parts.append(model(tokens[:, start:stop], cache, mask[:, :stop]))
    assert close(torch.cat(parts, 1)[:, 3:], expected, 1e-10)


@every_config
@torch.no_grad()
def test_saved_model_comes_back_to_the_bit(index: int, tmp_path: Any) -> None:
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path).eval()
    assert loaded.config == model.config
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(loaded(tokens), model(tokens))
    claimed = cost.weight_bytes(CONFIGS[index], 4)
    header = (tmp_path / folder.WEIGHTS).stat().st_size - claimed
    assert 0 < header < 200 * (len(before) + 1)


@every_config
def test_every_trainable_weight_gets_a_gradient(index: int) -> None:
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias on the keys moves all scores of a query alike; with q/k norm or rotation it does show.
    plain = not CONFIGS[index].attention.qk_norm and CONFIGS[index].position.kind == "learned"
    assert not [name for name in missing if not (plain and name.endswith("attention.k.bias"))]
    assert all(layer.weight.requires_grad for layer in model.modules() if isinstance(layer, Linear))
