"""Masks of bits: that pruned numbers stay zero whatever trains them, and have no gradient."""

from pathlib import Path

import pytest
import torch

from flyweight.config import schema
from flyweight.config.schema import AdamW, Masked, ModelConfig, Muon
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.model.masked import MaskedLinear, masks_of, pack_bits, unpack_bits
from flyweight.training.memory_saving import BackwardSteps
from flyweight.training.optimizers import build_optimizers

OPTIMIZERS = {"adamw": AdamW(lr=0.05, weight_decay=0.3), "muon": Muon(lr=0.05, weight_decay=0.3)}
TOKENS = torch.arange(48).view(2, 24) * 7 % 100


def masked_decoder(dtype: torch.dtype = torch.float32) -> Decoder:
    """Return a decoder of which two thirds of the blocks' matrices are pruned."""
    config = ModelConfig(
        vocab_size=100,
        context=32,
        dim=80,
        layers=2,
        attention=schema.Attention(heads=4),
        linears={"blocks": Masked()},
    )
    model = Decoder(config, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter, mask in masks_of(model):
            parameter.normal_(0, 0.1, generator=generator)
            kept = torch.rand(parameter.shape, generator=generator) > 2 / 3
            mask.copy_(pack_bits(kept))
            parameter.masked_fill_(~kept, 0)
    return model.to(dtype)


def assert_pruned(model: Decoder, before: Decoder) -> None:
    """Assert that what was pruned is zero to the bit, and that the rest has moved."""
    for (weight, mask), (old, old_mask) in zip(masks_of(model), masks_of(before), strict=True):
        kept = unpack_bits(mask, weight.shape[-1])
        assert torch.equal(mask, old_mask)
        assert weight[~kept].count_nonzero() == 0
        assert (weight[kept] != old[kept]).float().mean() > 0.5


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24, 123])
def test_bits_come_back(count):
    kept = torch.rand(5, count, generator=torch.Generator().manual_seed(0)) > 0.5
    bits = pack_bits(kept)
    assert bits.shape == (5, -(-count // 8))
    assert bits.dtype == torch.uint8
    assert torch.equal(unpack_bits(bits, count), kept)


@pytest.mark.parametrize("states", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_weights_stay_zero(optimizer, weights, states):
    model, before = masked_decoder(weights), masked_decoder(weights)
    optimizers = build_optimizers(model, optimizer, "fp32", states, seed=4)
    for _ in range(3):
        for each in optimizers:
            each.zero_grad(set_to_none=True)
        model(TOKENS).float().logsumexp(-1).square().mean().backward()
        for each in optimizers:
            each.step()
    assert_pruned(model, before)


def test_pruned_weights_stay_zero_where_each_moves_in_the_backward_pass():
    model, before = masked_decoder(), masked_decoder()
    BackwardSteps(build_optimizers(model, OPTIMIZERS["muon"], "fp32"))
    for _ in range(3):
        model(TOKENS).logsumexp(-1).square().mean().backward()
    assert_pruned(model, before)


def test_muon_alone_fills_the_zeros():
    model, unguarded = masked_decoder(), dict[str, int]()
    for optimizer in build_optimizers(model, OPTIMIZERS["muon"], "fp32"):
        optimizer._optimizer_step_post_hooks.clear()
        model(TOKENS).logsumexp(-1).square().mean().backward()
        optimizer.step()
    for number, (weight, mask) in enumerate(masks_of(model)):
        kept = unpack_bits(mask, weight.shape[-1])
        unguarded[str(number)] = int(weight[~kept].count_nonzero())
    assert all(unguarded.values())


def test_a_pruned_weight_has_no_gradient_and_the_others_have_that_of_a_dense_layer():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 11, generator=generator)
    weight[weight.abs() < 0.5] = 0
    layer = MaskedLinear.from_dense(weight, None)
    dense = weight.clone().requires_grad_()
    x = torch.randn(3, 11, generator=generator)
    layer(x).square().sum().backward()
    (x @ dense.T).square().sum().backward()
    assert dense.grad is not None
    assert layer.weight.grad is not None
    assert torch.equal(layer(x), x @ weight.T)
    assert torch.equal(layer.weight.grad, dense.grad * (weight != 0))
    index = torch.tensor([[4], [0]])
    assert torch.equal(layer.rows(index), weight[index])


def test_a_saved_model_comes_back_with_its_masks(tmp_path: Path):
    model = masked_decoder(torch.bfloat16)
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    layer = loaded.get_submodule("blocks.0.mlp.up")
    assert isinstance(layer, MaskedLinear)
    kind = layer.kind.stored_bytes(layer.out_features, layer.in_features, itemsize=2)
    assert layer.stored_bytes() == kind
