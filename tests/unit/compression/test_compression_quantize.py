"""Quantizing a whole decoder: which layers change, that the file is smaller and loads to the bit, what is refused."""

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from flyweight.compression.quantize import quantize
from flyweight.config.schema import (
    NF4,
    Architecture,
    Dense,
    Int3,
    Int4,
    Int8,
    Int8Dynamic,
    LinearKind,
    ModelConfig,
)
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.model.build import build
from flyweight.model.decoder import Decoder
from flyweight.model.linear import Linear
from flyweight.model.linear_grouped import Int3Linear, Int4Linear
from flyweight.model.linear_quant import Int8Linear, NF4Linear
from flyweight.model.packed import Packed

KINDS = [Int8(), NF4(), NF4(double=False, block=32), Int4(), Int4(group=20), Int3(group=16)]
DYNAMIC = [*KINDS, Int8Dynamic()]
SHARES = {"int8": 0.27, "int8_dynamic": 0.27, "nf4": 0.17, "int4": 0.18, "int3": 0.18}
"""The most of a float32 file that a file of 4-bit blocks and 8-bit tables takes here."""
TOKENS = torch.arange(48).view(2, 24) * 7 % 100
OPTIONS = {
    "tied": {},
    "untied with biases": {
        "embedding": {"tied": False},
        "attention": {"bias": True, "gain": True, "qk_norm": True},
        "mlp": {"kind": "gelu", "bias": True},
        "norm": "layernorm",
        "position": "learned",
    },
    "bigram": {"embedding": {"bigram": "exact"}, "head": {"softcap": 15}},
}
kinds = pytest.mark.parametrize("kind", KINDS, ids=str)
every_kind = pytest.mark.parametrize("kind", DYNAMIC, ids=str)
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def decoder(**changes: object) -> Decoder:
    config = {
        "vocab_size": 100,
        "context": 32,
        "dim": 48,
        "layers": 2,
        "attention": {"heads": 3},
        **changes,
    }
    model = Decoder(ModelConfig.model_validate(config), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # nothing that starts at zero or one may hide
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@every_kind
@options
def test_every_matrix_and_no_other_tensor_is_quantized(kind, options):
    model = decoder(**options)
    small = quantize(model, kind, Int8())
    for name, module in small.named_modules():
        assert not isinstance(module, Linear), name
        if isinstance(module, Packed):
            assert module.kind == (kind if name.startswith("blocks.") else Int8()), name
    dense, floats = dict(model.named_parameters()), dict(small.named_parameters())
    matrices = {name for name, module in model.named_modules() if isinstance(module, Linear)}
    assert floats.keys() == {
        name
        for name in dense
        if not (name.endswith(".weight") and name.rpartition(".")[0] in matrices)
    }
    assert all(torch.equal(floats[name], dense[name]) for name in floats)
    assert small.config.resolved() == small.config


@kinds
@options
def test_logits_stay_close_and_are_those_of_the_unpacked_weights(kind, options):
    model = decoder(**options)
    small, twin = quantize(model, kind, Int8()), decoder(**options)
    with torch.no_grad():
        for name, module in twin.named_modules():
            if isinstance(module, Linear):
                packed = small.get_submodule(name)
                assert isinstance(packed, Packed)
                module.weight.copy_(packed.dense())
        expected, found, exact = model(TOKENS), small(TOKENS), twin(TOKENS)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    error = ((found - expected).norm() / expected.norm()).item()
    assert 1e-4 < error < (0.05 if isinstance(kind, Int8) else 0.7)


@every_kind
@options
def test_a_saved_model_loads_to_the_bit_without_unpacking(
    kind, options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small = quantize(decoder(**options), kind, Int8())
    with torch.no_grad():
        expected = small(TOKENS)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("a weight was unpacked")

    with monkeypatch.context() as patch:
        for layer in (Int8Linear, NF4Linear, Int4Linear, Int3Linear):
            for name in ("dense", "rows", "pack", "_part", "reference"):
                patch.setattr(layer, name, refuse)
        folder.save(small, tmp_path)
        loaded = folder.load(tmp_path).eval()
    assert loaded.config == small.config
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS), expected)
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(
        torch.equal(tensor, small.state_dict()[name])
        for name, tensor in loaded.state_dict().items()
    )


@every_kind
def test_the_file_has_the_size_that_the_layers_claim(kind, tmp_path: Path):
    model = decoder(vocab_size=500, dim=256, attention={"heads": 4})
    small = quantize(model, kind, Int8())
    for name, given in (("dense", model), ("small", small)):
        folder.save(given, tmp_path / name)
    sizes = {
        name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("dense", "small")
    }
    layers = [module for module in small.modules() if isinstance(module, Packed)]
    held = sum(layer.stored_bytes() for layer in layers)
    rest = sum(p.nbytes for p in small.parameters()) - sum(
        p.nbytes for layer in layers for p in layer.parameters()
    )
    assert sizes["small"] == pytest.approx(held + rest, rel=0.02)
    assert sizes["small"] < sizes["dense"] * SHARES[kind.kind]


def test_a_bigram_table_is_quantized_like_the_embedding():
    small = quantize(
        decoder(embedding={"bigram": {"kind": "hashed", "buckets": 64}}), NF4(), NF4(block=16)
    )
    table = small.embedding.bigram
    assert isinstance(table, NF4Linear)
    assert table.block == 16
    assert isinstance(
        quantize(decoder(embedding={"bigram": "exact"}), NF4(), Dense()).embedding.bigram, Linear
    )


@pytest.mark.parametrize(("kind", "embedding"), [(Dense(), Int8()), (Int8(), Dense())])
def test_one_of_both_may_stay_dense(kind: LinearKind, embedding: LinearKind):
    small = quantize(decoder(), kind, embedding)
    assert isinstance(small.embedding.tokens, Linear) == isinstance(embedding, Dense)
    assert isinstance(small.get_submodule("blocks.1.mlp.down"), Linear) == isinstance(kind, Dense)


def test_the_model_given_is_left_alone():
    model = decoder().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = quantize(model, Int8(), Int8())
    assert small.training
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_quantized_already_is_refused():
    small = quantize(decoder(), Dense(), Int8())
    with pytest.raises(RequestError, match=r"quantized already \(embedding.tokens is int8\)"):
        quantize(small, NF4(), Int8())


def test_dense_for_dense_is_refused():
    with pytest.raises(RequestError, match="nothing would change"):
        quantize(decoder(), Dense(), Dense())


def test_a_broken_weight_is_refused():
    model = decoder()
    with torch.no_grad():
        nn.init.constant_(model.get_submodule("blocks.0.mlp.up").weight, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(FlyweightError, match=r"blocks\.0\.mlp\.up.*NaN"):
        quantize(model, Int8(), Int8())


@kinds
def test_a_quantized_decoder_decodes_with_its_cache_and_trains_what_is_before_it(kind):
    small = quantize(decoder(), kind, Int8())
    with torch.no_grad():
        whole, cache = small(TOKENS), small.new_cache(2, 24)
        steps = torch.cat([small(TOKENS[:, at : at + 8], cache) for at in (0, 8, 16)], 1)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-4)
    small(TOKENS).logsumexp(-1).sum().backward()
    gradient = small.get_submodule("blocks.0.attention_norm").weight.grad
    assert isinstance(gradient, Tensor)
    assert gradient.abs().sum() > 0


@every_kind
def test_a_bfloat16_model_stays_one(kind, tmp_path: Path):
    small = quantize(decoder().to(torch.bfloat16), kind, Int8())
    folder.save(small, tmp_path)
    with torch.no_grad():
        expected, found = small(TOKENS), folder.load(tmp_path).eval()(TOKENS)
    assert expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "linear"}, {"embedding.tokens": "int8", "head.linear": "nf4"}),
        (
            {"kind": "mlp", "hidden": 8, "layers": 1},
            {"embedding.tokens": "int8", "blocks.0": "nf4", "head.linear": "int8"},
        ),
        (
            {"kind": "lstm"},
            {"embedding.tokens": "int8", "blocks.0.input": "nf4", "blocks.0.recurrent": "nf4"},
        ),
    ],
)
def test_baselines_are_quantized_by_the_same_rule(fields, expected):
    config = TypeAdapter(Architecture).validate_python(
        {"vocab_size": 100, "context": 32, "dim": 48, **fields}
    )
    dense = build(config, seed=1).eval()
    small = quantize(dense, NF4(block=16), Int8())
    kinds = {
        name: module.kind.kind
        for name, module in small.named_modules()
        if isinstance(module, (Linear, Packed))
    }
    assert kinds == expected
    with torch.no_grad():
        full, packed = dense.hidden(TOKENS), small.hidden(TOKENS)
        assert 0 < (packed - full).norm() / full.norm() < 0.2
    with pytest.raises(RequestError, match="quantized already"):
        quantize(small, Int8(), Int8())
