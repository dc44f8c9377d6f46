"""Training for a rounding: what training sees is what packing stores, and gradients go straight through."""

import pytest
import torch

from flyweight.compression.quantize import quantize
from flyweight.config.schema import NF4, Dense, Int3, Int4, Int8, ModelConfig
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder
from flyweight.model.linear import Linear, build
from flyweight.model.rounded import Rounded
from flyweight.model.rounding import check_rounding, round_in_training
from flyweight.spec.linears import block_names

ALL = [Int8(), Int4(), Int4(group=7), Int3(), NF4(), NF4(block=16, double=False)]
kinds = pytest.mark.parametrize("kind", ALL, ids=str)
TOKENS = torch.arange(24).view(2, 12) * 7 % 40


def decoder(**fields: object) -> Decoder:
    config = {"vocab_size": 40, "context": 12, "dim": 24, "layers": 2, "attention": {"heads": 2}}
    model = Decoder(ModelConfig.model_validate({**config, **fields}), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@kinds
def test_the_rounded_weight_is_the_packed_one_to_the_bit(kind):
    weight = torch.randn(33, 50, generator=torch.Generator().manual_seed(0))
    layer = build(kind, 50, 33, False)
    assert isinstance(layer, Rounded)
    rounded = layer.rounded(weight)
    layer.pack(weight)
    assert torch.equal(layer.dense(), rounded)


@kinds
@pytest.mark.parametrize("fields", [{}, {"sharing": {"kind": "cycle", "times": 2}}], ids=str)
def test_what_training_sees_is_what_quantizing_gives(kind, fields):
    model = decoder(**fields)
    plain = model(TOKENS)
    round_in_training(model, model.config, kind)
    seen = model(TOKENS)
    packed = quantize(model, kind, Dense())
    torch.testing.assert_close(packed(TOKENS), seen, rtol=1e-4, atol=1e-5)
    assert not torch.equal(seen, plain)
    round_in_training(model, model.config, None)
    assert torch.equal(model(TOKENS), plain)


def test_matrices_with_a_kind_of_their_own_are_rounded_to_it():
    model, layers = decoder(), {"blocks.1.*": Int8(), "blocks.*.mlp.down": Int4()}
    round_in_training(model, model.config, Int3(), layers)
    packed = quantize(model, Int3(), Dense(), layers=layers)
    torch.testing.assert_close(packed(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match=r"here\.round_layers\.embedding: no matrix of a block"):
        check_rounding(model.config, {"embedding": Int8()}, "here")


def test_the_gradient_of_a_weight_is_that_of_what_it_is_rounded_to():
    layer = Linear.from_dense(torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), None)
    model = torch.nn.Sequential(layer)
    rounder = build(Int4(group=5), 10, 6, False)
    assert isinstance(rounder, Rounded)
    twin = Linear.from_dense(rounder.rounded(layer.weight.detach()), None)
    round_in_training(_Named(model), _Named.config, Int4(group=5))
    x = torch.randn(3, 10)
    layer(x).square().sum().backward()
    twin(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, twin.weight.grad)


class _Named(torch.nn.Module):
    """A module whose one block is a linear layer, as that of an MLP model."""

    config = ModelConfig(vocab_size=40, context=12, dim=24, layers=0)

    def __init__(self, blocks: torch.nn.Sequential) -> None:
        super().__init__()
        self.blocks = blocks


@pytest.fixture(autouse=True)
def one_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.name.startswith("test_the_gradient"):
        monkeypatch.setattr("flyweight.model.rounding.block_names", lambda _: ["blocks.0"])


def test_a_state_has_no_more_tensors_and_tables_stay_as_they_are():
    model = decoder()
    names = list(model.state_dict())
    round_in_training(model, model.config, Int3())
    assert list(model.state_dict()) == names
    assert model.embedding.tokens.rounding is None  # pyright: ignore
    assert len(block_names(model.config)) == 14


def test_matrices_that_are_not_plain_are_refused():
    config = decoder(linears={"blocks.1.mlp": "int8"}).config
    with pytest.raises(RequestError, match=r"stages\.q\.round: blocks\.1\.mlp\.gate is int8"):
        check_rounding(config, {}, "stages.q")
