"""Packing a pruned model: the same logits in exactly the bytes that are told, or a refusal."""

from typing import Any

import pytest
import torch

from flyweight.compression.pack import masked_layers, pack, packing_facts
from flyweight.compression.prune import prune
from flyweight.config.schema import Dense, Lora, ModelConfig, Prune, Sparse, TwoFour
from flyweight.errors import RequestError
from flyweight.model.attach import attach
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.model.sparsity import sparsity_facts
from flyweight.spec import flops

TOKENS = torch.arange(40).view(2, 20) * 7 % 100


def pruned(share: float, **fields: Any) -> Decoder:
    config = ModelConfig(
        vocab_size=100, context=32, dim=64, layers=2, attention={"heads": 4, "bias": True}
    )
    model = Decoder(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(2)
            )
    settings = Prune.model_validate({"stage": "prune", "input": "m", **fields})
    result = prune(model, settings, share)
    assert isinstance(result, Decoder)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_a_packed_model_is_the_masked_one_in_fewer_bytes(sparsity, dtype):
    model = pruned(sparsity, sparsity=sparsity).to(dtype)
    packed = pack(model)
    layers = dict(layers_of(packed))
    for name, layer in masked_layers(model).items():
        assert torch.equal(layers[name].dense(), layer.dense())
        assert isinstance(layers[name].kind, Sparse)
    exact = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    with torch.no_grad():
        assert torch.allclose(packed(TOKENS), model(TOKENS), atol=exact)
    facts = packing_facts(model, packed)
    stored = sum(layers[name].stored_bytes() - _bias(layers[name]) for name in masked_layers(model))
    assert facts["packed_bytes"] == stored < facts["dense_bytes"]
    assert facts["entropy_bytes"] <= facts["packed_bytes"]
    assert sparsity_facts(packed) == sparsity_facts(model)
    whole = sum(tensor.nbytes for tensor in packed.state_dict().values())
    assert flops.weight_bytes(packed.config, dtype.itemsize) == whole


def _bias(layer: Any) -> int:
    return 0 if layer.bias is None else layer.bias.nbytes


def test_two_of_four_are_packed_so():
    model = pruned(0.5, pattern="2:4")
    packed = pack(model)
    assert all(isinstance(packed.config.linears[name], TwoFour) for name in masked_layers(model))
    facts = packing_facts(model, packed)
    assert facts["packed_bytes"] / facts["dense_bytes"] == 0.5 + 1 / 32
    with torch.no_grad():
        assert torch.allclose(packed(TOKENS), model(TOKENS), atol=1e-5)


def test_a_model_that_would_not_get_smaller_is_refused_unless_it_is_kept():
    model = pruned(0.02, sparsity=0.02)
    with pytest.raises(RequestError, match="no pruned matrix takes fewer bytes"):
        pack(model)
    packed = pack(model, keep=True)
    facts = packing_facts(model, packed)
    assert facts["packed_bytes"] > facts["dense_bytes"]


def test_only_matrices_that_get_smaller_are_packed():
    model = pruned(0.9, sparsity=0.9, targets=["blocks.0"])
    again = prune(
        model, Prune(stage="prune", input="m", sparsity=0.01, targets=("blocks.1",)), 0.01
    )
    packed = pack(again)
    assert isinstance(packed.config.linears["blocks.0.mlp.up"], Sparse)
    assert isinstance(packed.config.linears["blocks.1.mlp.up"], Dense)


def test_what_was_never_pruned_or_is_packed_is_refused():
    plain = Decoder(ModelConfig(vocab_size=100, context=32, dim=32, layers=1), seed=1)
    with pytest.raises(RequestError, match="no masks"):
        pack(plain)
    with pytest.raises(RequestError, match="no masks"):
        pack(pack(pruned(0.5, sparsity=0.5)))


def test_adapters_around_pruned_matrices_stay():
    model = attach(pruned(0.6, sparsity=0.6), [Lora(r=4)], seed=2)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("lora.b"):
                tensor.normal_(generator=torch.Generator().manual_seed(3))
    packed = pack(model)
    with torch.no_grad():
        assert torch.allclose(packed(TOKENS), model(TOKENS), atol=1e-4)
