import math

import pytest
import torch

from flyweight.config import schema
from flyweight.config.schema import Ia3, Lora, ModelConfig
from flyweight.errors import RequestError
from flyweight.model.attach import attach, freeze
from flyweight.model.decoder import Decoder
from flyweight.training.optimizers import (
    MuonOptimizer,
    build_optimizers,
    newton_schulz,
    rate_factor,
    set_rates,
)


def decoder(layers=2):
    return Decoder(ModelConfig(dim=16, layers=layers, norm="layernorm").resolved(33, 16))


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("config", [schema.AdamW(), schema.Muon()])
def test_every_parameter_is_moved_by_exactly_one_group(config, layers):
    model = decoder(layers)
    moved = [
        id(p)
        for o in build_optimizers(model, config, "fp32")
        for group in o.param_groups
        for p in group["params"]
    ]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("config", [schema.AdamW(), schema.Muon()])
def test_decay_acts_on_matrices_only(config):
    for optimizer in build_optimizers(decoder(), config, "fp32"):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)


def test_muon_is_torchs_muon_in_bfloat16():
    torch.manual_seed(0)
    start = [torch.randn(24, 16), torch.randn(16, 40), torch.randn(24, 16)]
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    mine, reference = (
        MuonOptimizer(ours, dtype=torch.bfloat16, **options),
        torch.optim.Muon(theirs, **options),
    )
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.03 * (
            b - s
        ).norm()  # bfloat16 rounds batched products in another order
    exact = torch.optim.Muon([torch.nn.Parameter(start[0].clone())], **options)
    assert exact.defaults["nesterov"] is True


def test_newton_schulz_gives_matrices_with_singular_values_near_one():
    matrices = torch.randn(3, 20, 12, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(
        newton_schulz(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7, torch.float32)
    )
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_schedule_warms_up_stays_and_falls():
    plan = schema.Schedule(warmup=0.1, tail="linear", tail_from=0.5, final=0.2)
    assert rate_factor(plan, 0.05) == pytest.approx(0.5)
    assert rate_factor(plan, 0.3) == 1.0
    assert rate_factor(plan, 0.75) == pytest.approx(0.6)
    assert rate_factor(plan, 1.0) == pytest.approx(0.2)
    cosine = schema.Schedule(warmup=0.0, tail="cosine")
    assert rate_factor(cosine, 0.5) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert rate_factor(schema.Schedule(tail="none"), 0.9) == 1.0


def test_rates_keep_their_base():
    optimizers = build_optimizers(
        decoder(), schema.Muon(lr=0.02, rest=schema.AdamW(lr=3e-3)), "fp32"
    )
    for factor in (0.5, 0.1):
        set_rates(optimizers, factor)
    assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([0.002, 0.0003])


def test_muon_does_not_move_adapters():
    model = attach(decoder(), [Lora()])
    freeze(model, model.config, "adapters")
    with pytest.raises(RequestError, match="use adamw"):
        build_optimizers(model, schema.Muon(), "fp32")
    freeze(model, model.config, "frozen")
    build_optimizers(model, schema.Muon(), "fp32")


def test_adapters_alone_are_moved_and_factors_do_not_decay():
    model = attach(decoder(), [Lora(r=2), Ia3(targets=("mlp.down",), per="visit")])
    freeze(model, model.config, "adapters")
    (optimizer,) = build_optimizers(model, schema.AdamW(), "fp32")
    groups = {
        name: group["weight_decay"]
        for name, parameter in model.named_parameters()
        for group in optimizer.param_groups
        if any(parameter is each for each in group["params"])
    }
    assert {name.rpartition(".")[2] for name in groups} == {"a", "b", "scale"}
    assert all((decay > 0) == (".lora." in name) for name, decay in groups.items())
