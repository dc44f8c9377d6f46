"""Zeros are counted in the matrices that a model computes with."""

import pytest
import torch

from flyweight.compression.merge import merge
from flyweight.compression.prune import prune
from flyweight.config.schema import Lora, ModelConfig, Prune
from flyweight.errors import RequestError
from flyweight.model.attach import attach
from flyweight.model.decoder import Decoder
from flyweight.model.sparsity import pruned_layers, sparsity_facts


def decoder() -> Decoder:
    return Decoder(ModelConfig(vocab_size=50, context=16, dim=32, layers=1), seed=1)


def with_trained_lora(model: Decoder) -> Decoder:
    model = attach(model, [Lora(r=4)], seed=2)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("lora.b"):
                tensor.normal_(generator=torch.Generator().manual_seed(3))
    return model


def test_a_model_that_was_never_pruned_has_no_sparsity():
    assert sparsity_facts(decoder()) == {}


def test_the_zeros_of_pruned_matrices():
    pruned = prune(decoder(), Prune(stage="prune", input="m"), 0.75)
    facts = sparsity_facts(pruned)
    assert facts["sparsity"] == 0.75
    assert (
        facts["nonzero"]
        == sum(p.numel() for p in decoder().blocks.parameters() if p.ndim == 2) // 4
    )


def test_pruned_adapters_leave_the_matrices_dense_and_merging_says_so():
    model = with_trained_lora(decoder())
    config = Prune(stage="prune", input="m", of="adapters", scope="global")
    pruned = prune(model, config, 0.8)
    facts = sparsity_facts(pruned)
    assert facts["adapter_sparsity"] == round(0.8 * 4 * 128) / (4 * 128)
    assert facts["sparsity"] == 0
    merged = merge(pruned)
    assert sparsity_facts(merged, pruned_layers(pruned))["sparsity"] == 0
    assert torch.allclose(merged(torch.arange(9)[None]), pruned(torch.arange(9)[None]), atol=1e-5)


def test_an_adapter_of_which_nothing_is_left_is_counted():
    model = with_trained_lora(decoder())
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("lora.b"):
                tensor.mul_(1e-3)  # as after a short training: B begins at zero
    found = {}
    for scope in ("global", "layer"):
        config = Prune(stage="prune", input="m", of="adapters", scope=scope)
        facts = sparsity_facts(prune(model, config, 0.8))
        assert facts["adapter_sparsity"] > 0.75
        found[scope] = (facts["idle_adapters"], facts["adapters"])
    (idle, all_), (kept, same) = found["global"], found["layer"]
    assert idle == all_ == same > 0 and kept == 0


def test_an_adapter_that_was_pruned_whole_is_not_called_untrained():
    model = with_trained_lora(decoder())
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("lora.b"):
                tensor.mul_(1e-3)
    config = Prune(stage="prune", input="m", of="adapters", scope="global")
    gone = prune(model, config, 0.8)
    with pytest.raises(RequestError, match="was pruned whole before"):
        prune(gone, config, 0.9)


def test_a_lora_fills_the_pruned_matrices_that_it_is_around_and_no_other():
    model = with_trained_lora(prune(decoder(), Prune(stage="prune", input="m"), 0.75))
    merged = merge(model)
    assert merged.config.linears["blocks.0.attention.q"].kind == "dense"
    assert sparsity_facts(merged)["sparsity"] == 0.75  # of what is still pruned
    assert "blocks.0.attention.q" not in pruned_layers(merged)
    assert "blocks.0.attention.out" in pruned_layers(merged)
    assert torch.allclose(merged(torch.arange(9)[None]), model(torch.arange(9)[None]), atol=1e-5)
