"""Pruning: which weights become zero, what the controls lose, and what is refused."""

from typing import Any

import pytest
import torch

from flyweight.compression.kept import largest, two_of_four
from flyweight.compression.prune import prune, pruned_config
from flyweight.compression.quantize import quantize
from flyweight.config.schema import NF4, Dense, Int8, Lora, Masked, ModelConfig, Prune
from flyweight.errors import RequestError
from flyweight.model.attach import attach
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.model.masked import MaskedLinear
from flyweight.model.sparsity import pruned_layers, sparsity_facts

TOKENS = torch.arange(40).view(2, 20) * 7 % 100


def decoder(**changes: Any) -> Decoder:
    """Return a decoder in which no weight is zero."""
    fields: dict[str, Any] = {"vocab_size": 100, "context": 32, "dim": 48, "layers": 2, **changes}
    fields.setdefault("attention", {"heads": 3})
    model = Decoder(ModelConfig.model_validate(fields), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def settings(**fields: Any) -> Prune:
    return Prune.model_validate({"stage": "prune", "input": "m", **fields})


def test_the_smallest_of_each_matrix_become_zero():
    model = decoder()
    pruned = prune(model, settings(sparsity=0.3), 0.3)
    before = dict(layers_of(model))
    for name, layer in layers_of(pruned):
        old = before[name].dense()
        if not name.startswith("blocks."):
            assert torch.equal(layer.dense(), old)
            continue
        assert isinstance(layer, MaskedLinear)
        kept = layer.kept()
        assert int((~kept).sum()) == round(0.3 * old.numel())
        assert torch.equal(layer.dense(), old * kept)
        assert old[~kept].abs().max() <= old[kept].abs().min()
    assert "mask" not in "".join(model.state_dict())  # the model itself is as it was


def test_global_scope_compares_all_matrices():
    model = decoder()
    with torch.no_grad():
        model.get_parameter("blocks.0.attention.q.weight").mul_(100)
    pruned = prune(model, settings(sparsity=0.5, scope="global"), 0.5)
    layers = dict(layers_of(pruned))
    q, up = layers["blocks.0.attention.q"], layers["blocks.1.mlp.up"]
    assert isinstance(q, MaskedLinear)
    assert isinstance(up, MaskedLinear)
    assert q.kept().float().mean() > 0.98
    assert up.kept().float().mean() < 0.5
    total = sum(
        layer.weight.numel() for layer in layers.values() if isinstance(layer, MaskedLinear)
    )
    assert sparsity_facts(pruned)["nonzero"] == total - round(0.5 * total)


def test_two_of_every_four_are_kept():
    pruned = prune(decoder(), settings(pattern="2:4"), 0.5)
    for name, layer in layers_of(pruned):
        if isinstance(layer, MaskedLinear):
            fours = layer.kept().view(layer.out_features, -1, 4)
            assert (fours.sum(-1) == 2).all(), name
    assert pruned.config.linears == {"blocks": Masked(pattern="2:4")}


def test_exact_counts_where_scores_are_equal():
    kept = largest([torch.ones(3, 5), torch.zeros(2, 5)], 0.6)
    assert int(kept[0].sum()) == 10
    assert int(kept[1].sum()) == 0
    assert two_of_four(torch.zeros(2, 8)).sum() == 8


def test_random_is_drawn_by_the_seed():
    one, again, other = (
        prune(decoder(), settings(sparsity=0.5, method="random"), 0.5, seed) for seed in (1, 1, 2)
    )
    state = one.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    mask = "blocks.0.mlp.up.mask"
    assert not torch.equal(state[mask], other.state_dict()[mask])


def test_pruning_again_keeps_what_was_zero():
    first = prune(decoder(), settings(sparsity=0.5, method="random"), 0.5, seed=1)
    second = prune(first, settings(sparsity=0.7), 0.7)
    before = dict(layers_of(first))
    for name, layer in layers_of(second):
        old = before[name]
        if isinstance(layer, MaskedLinear):
            assert isinstance(old, MaskedLinear)
            assert not (layer.kept() & ~old.kept()).any()
            assert int((~layer.kept()).sum()) == round(0.7 * layer.weight.numel())


def test_a_shared_layer_is_pruned_once():
    model = decoder(layers=1, sharing={"kind": "all", "times": 3})
    pruned = prune(model, settings(sparsity=0.5), 0.5)
    assert len(pruned_layers(pruned)) == len(list(layers_of(model.blocks)))
    assert sparsity_facts(pruned)["sparsity"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("kind", [Int8(), NF4()], ids=str)
def test_zeros_stay_zero_in_codes(kind):
    pruned = prune(decoder(), settings(sparsity=0.5), 0.5)
    packed = quantize(pruned, kind, Int8())
    zeros = dict(layers_of(packed))
    for name, layer in layers_of(pruned):
        if isinstance(layer, MaskedLinear):
            assert zeros[name].dense()[~layer.kept()].count_nonzero() == 0
    assert sparsity_facts(packed, pruned_layers(pruned))["sparsity"] >= 0.5


REFUSED = {
    "packed": ({"linears": {"blocks": NF4()}}, {}, "stored as nf4"),
    "no LoRA": ({}, {"of": "adapters"}, "has no LoRA"),
    "adapters": ({"adapters": ["lora"]}, {}, "merge them first"),
    "no such layer": ({}, {"targets": ["blocks.7"]}, "no layer is called 'blocks.7'"),
    "width": ({"dim": 42}, {"pattern": "2:4", "sparsity": None}, "no multiple of 4"),
    "pattern lost": ({"linears": {"blocks": Masked(pattern="2:4")}}, {}, "pattern 2:4"),
}


@pytest.mark.parametrize(("model", "fields", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_pruned_is_refused_by_the_config_alone(model, fields, words):
    base = {"vocab_size": 100, "context": 32, "dim": 48, "layers": 2, "attention": {"heads": 3}}
    config = ModelConfig.model_validate(base | model).resolved()
    with pytest.raises(RequestError, match=words):
        pruned_config(config, settings(**{"sparsity": 0.5, **fields}))


def test_an_adapter_that_was_never_trained_is_not_called_pruned():
    model = attach(decoder(), [Lora(r=4)])
    fields = {"sparsity": 0.5, "of": "adapters"}
    with pytest.raises(RequestError, match="never trained"):
        prune(model, settings(**fields), 0.5)
    before = prune(model, settings(**fields, method="random"), 0.5)  # the control
    facts = sparsity_facts(before)
    assert facts["adapter_sparsity"] > 0.5
    assert facts["sparsity"] == 0


def test_masked_models_are_not_quantized_into_masks():
    with pytest.raises(RequestError, match="rounds nothing"):
        quantize(decoder(), Masked(), Dense())


FAULTS = {
    "none": ({}, "sparsity: say which share"),
    "pattern": ({"pattern": "2:4", "sparsity": 0.6}, "leave sparsity out"),
    "global": ({"pattern": "2:4", "scope": "global"}, "leave scope out"),
    "targets": ({"sparsity": 0.5, "of": "adapters", "targets": "head"}, "leave targets out"),
    "thin": ({"pattern": "2:4", "of": "adapters"}, "leave pattern out"),
}


@pytest.mark.parametrize(("fields", "words"), FAULTS.values(), ids=FAULTS)
def test_contradictions_between_fields(fields, words):
    (fault,) = settings(**fields).faults()
    assert words in fault


@pytest.mark.parametrize(
    "sparsity", [0, 1, -0.5, 1.5, {"among": [0.5], "within": {"perplexity": 1}}]
)
def test_a_sparsity_is_a_share(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        settings(sparsity=sparsity)
