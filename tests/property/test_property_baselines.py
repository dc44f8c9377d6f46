"""What must hold for every linear, MLP and LSTM model, over a pairwise sample of valid configs."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from allpairspy import AllPairs
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config import schema
from flyweight.config.schema import Architecture
from flyweight.model import folder
from flyweight.model.build import Model, build
from flyweight.model.linear import KINDS, Linear
from flyweight.model.packed import Packed
from flyweight.spec import flops
from flyweight.spec.linears import linear_names

LENGTH = 11
FIELDS: dict[str, list[Any]] = {
    "kind": [
        {"kind": "linear", "history": 1},
        {"kind": "linear", "history": 4},
        {"kind": "linear"},
        {"kind": "mlp", "hidden": 12},
        {"kind": "mlp", "hidden": 9, "layers": 1, "history": 1},
        {"kind": "mlp", "hidden": 16, "layers": 3, "history": 5, "dropout": 0.3},
        {"kind": "lstm"},
        {"kind": "lstm", "tied": False},
        {"kind": "lstm", "layers": 2, "hidden": 13, "tied": False, "dropout": 0.3},
        {"kind": "lstm", "layers": 3, "forget_bias": 0.0},
    ],
    "linears": [
        {},
        {"*": "int8"},
        {"embedding": "int8", "*": {"kind": "nf4", "block": 16}},
        {"head": "int8"},
    ],
    "dim": [16, 33],
    "vocab": [3, 50],
}
ROWS: list[list[Any]] = [list(row) for row in AllPairs(list(FIELDS.values()))]


def config_of(row: list[Any]) -> Architecture:
    value = dict(zip(FIELDS, row, strict=True))
    kind, linears = value["kind"], value["linears"]
    if kind["kind"] == "lstm" and kind.get("tied", True) and "head" in linears:
        linears = {"embedding": "int8"}
    fields = {
        **kind,
        "vocab_size": value["vocab"],
        "context": 16,
        "dim": value["dim"],
        "linears": linears,
    }
    return TypeAdapter(Architecture).validate_python(fields).resolved()


CONFIGS = [config_of(row) for row in ROWS]
every_config = pytest.mark.parametrize("index", range(len(CONFIGS)))


@cache
def model_of(index: int, dtype: torch.dtype) -> Model:
    """Return a model in which nothing is zero by initialisation, so that every part shows in the logits."""
    model = build(CONFIGS[index], seed=index)
    generator = torch.Generator().manual_seed(index)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.to(dtype).eval()


def tokens_of(index: int) -> torch.Tensor:
    return torch.randint(
        CONFIGS[index].vocab_size or 0,
        (2, LENGTH),
        generator=torch.Generator().manual_seed(1000 + index),
    )


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    scale = max(1.0, expected.abs().max().item())
    return (found - expected).abs().max().item() <= tolerance * scale


def history(index: int) -> int:
    """Return how many tokens the model sees: all that there are, for an LSTM."""
    return getattr(CONFIGS[index], "history", LENGTH)


def test_sample_is_pairwise() -> None:
    values = list(FIELDS.values())
    seen = {
        (i, j, str(row[i]), str(row[j])) for row in ROWS for i in range(len(row)) for j in range(i)
    }
    assert seen == {
        (i, j, str(a), str(b))
        for i in range(len(values))
        for j in range(i)
        for a in values[i]
        for b in values[j]
    }


@every_config
def test_counted_parameters_and_bytes_are_built(index: int) -> None:
    config = CONFIGS[index]
    with torch.device("meta"):
        model = build(config)
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    built = sum(p.numel() for p in model.parameters()) + sum(
        layer.in_features * layer.out_features for layer in packed
    )
    found = flops.parameters(config)
    assert found.total == found.unique == built == sum(found.by_part.values())
    assert flops.weight_bytes(config, 4) == sum(
        tensor.nbytes for tensor in model.state_dict().values()
    )
    assert flops.kv_bytes_per_token(config) == 0
    named = [
        name for name, module in model.named_modules() if isinstance(module, tuple(KINDS.values()))
    ]
    assert sorted(named) == sorted(linear_names(config))


@every_config
def test_flops_are_those_of_the_flop_counter(index: int) -> None:
    # On the meta device an LSTM is computed step by step, so that its products are seen.
    config = CONFIGS[index]
    with torch.device("meta"):
        model, tokens = build(config), torch.zeros(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        model(tokens)
    assert forward.get_total_flops() == flops.forward_flops(config, LENGTH) > 0
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **others: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as training:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert training.get_total_flops() == flops.training_flops(config, LENGTH)


@every_config
@torch.no_grad()
def test_no_logit_depends_on_a_later_token_or_one_that_is_too_old(index: int) -> None:
    model, tokens, vocab = (
        model_of(index, torch.float32),
        tokens_of(index),
        CONFIGS[index].vocab_size or 0,
    )
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % vocab
    before, after = model(tokens), model(changed)
    assert before.shape == (2, LENGTH, vocab)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6], after[:, 6])
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % vocab
    moved = (model(changed) != before).any(-1).any(0)  # (T,)
    assert moved[2 : 2 + history(index)].all() and not moved[2 + history(index) :].any()


@every_config
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_cached_equals_uncached_with_and_without_padding(
    index: int, dtype: torch.dtype, tolerance: float
) -> None:
    model, tokens = model_of(index, dtype), tokens_of(index)
    padded = torch.ones(2, LENGTH, dtype=torch.bool)
    padded[0, :3] = False
    for mask in (None, padded):
        cache, parts = model.new_cache(2, LENGTH), []
        for start, stop in ((0, 2), (2, 5), (5, 6), (6, 9), (9, LENGTH)):
            parts.append(
                model(tokens[:, start:stop], cache, None if mask is None else mask[:, :stop])
            )
        assert cache.length == LENGTH
        expected = model(tokens)
        if mask is not None:
            expected[0, 3:] = model(tokens[:1, 3:])[0]
            assert close(model(tokens, mask=mask)[mask], expected[mask], tolerance)
        real = padded if mask is not None else slice(None)
        assert close(torch.cat(parts, 1)[real], expected[real], tolerance)


@every_config
@torch.no_grad()
def test_saved_model_comes_back_to_the_bit(index: int, tmp_path: Any) -> None:
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path).eval()
    assert type(loaded) is type(model) and loaded.config == model.config
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )
    assert torch.equal(loaded(tokens), model(tokens))


@every_config
def test_every_trainable_weight_gets_a_gradient(index: int) -> None:
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()
    missing = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    # A model of one token never has a place with nothing in it.
    assert missing == (["embedding.padding"] if getattr(CONFIGS[index], "history", 2) == 1 else [])
    assert all(layer.weight.requires_grad for layer in model.modules() if isinstance(layer, Linear))


@every_config
def test_initial_weights_are_the_seeds_alone(index: int) -> None:
    torch.manual_seed(0)
    one = build(CONFIGS[index], seed=3).state_dict()
    torch.manual_seed(1)
    two = build(CONFIGS[index], seed=3).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(
        not torch.equal(one[name], value)
        for name, value in build(CONFIGS[index], seed=4).state_dict().items()
    )


def test_every_kind_is_built() -> None:
    assert {type(config) for config in CONFIGS} == set(schema.ARCHITECTURES) - {schema.ModelConfig}
