"""GPTQ: against the method written out column by column, never worse than nearest, the same every time."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from flyweight.compression.gptq import clipped, output_error, round_by_inputs
from flyweight.compression.quantize import quantize, quantize_by_inputs
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
    NextToken,
)
from flyweight.data.batch import Batch
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.build import Model, build
from flyweight.model.decoder import Decoder
from flyweight.model.linear import KINDS, Linear
from flyweight.model.linear_layer import layers_of
from flyweight.model.rounded import Rounded
from flyweight.training.objectives import NextTokenObjective

ALL = [
    Int8(),
    Int8Dynamic(),
    Int4(),
    Int4(group=24),
    Int3(),
    Int3(group=200),
    NF4(),
    NF4(block=16, double=False),
]
kinds = pytest.mark.parametrize("kind", ALL, ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows: int, in_: int) -> Tensor:
    """Return inputs (rows, in) of which some directions are a hundred times as long as others."""
    return normal(rows, in_) @ (normal(in_, in_, seed=1) * torch.logspace(0, -2, in_))


def empty(kind: LinearKind, out: int, in_: int) -> Rounded:
    layer = KINDS[kind.kind](in_, out, False, kind)
    assert isinstance(layer, Rounded)
    return layer


def written_out(layer: Rounded, weight: Tensor, gram: Tensor, damping: float) -> Tensor:
    """Return GPTQ's weight by the inverse Hessian that loses a row and a column at every step.

    It has no Cholesky factor and no blocks: equations 2 and 3 of Frantar et al. 2022.
    """
    layer.fit(weight)
    weight, hessian = weight.double().clone(), gram.double().clone()
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.linalg.inv(hessian)
    rounded = torch.zeros_like(weight)
    for at in range(weight.shape[1]):
        width = layer.columns_at_once
        if width and at % width == 0:
            layer.refit(weight[:, at : at + width].float(), at)
        step = layer.steps(0, layer.out_features).expand(weight.shape)[:, at].float()
        code = layer.nearest(weight[:, at].float() / torch.where(step != 0, step, 1))
        rounded[:, at] = layer.units(code) * step
        error = (weight[:, at] - rounded[:, at]) / inverse[0, 0]
        weight[:, at:] -= error[:, None] * inverse[0]
        inverse = (inverse - torch.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]
    return rounded.float()


@kinds
@pytest.mark.parametrize("shape", [(20, 72), (9, 300)], ids=str)
def test_it_is_the_method_written_out(kind, shape):
    weight, x = normal(*shape, seed=2) * 0.02, correlated(500, shape[1])
    gram = x.T @ x / len(x)
    layer, twin = empty(kind, *shape), empty(kind, *shape)
    error = round_by_inputs(layer, weight, gram, 0.05)
    expected = written_out(twin, weight, gram, 0.05)
    same = (layer.dense() - expected).abs() <= 1e-6 * expected.abs()
    # A value between two codes may fall to the other side, and then moves those after it.
    assert same.float().mean() > 0.98
    assert error.gptq == pytest.approx(output_error(weight, expected, gram), rel=0.02)


@kinds
def test_errors_are_those_of_the_output(kind):
    weight, x = normal(20, 72, seed=2) * 0.02, correlated(500, 72)
    layer, nearest = empty(kind, 20, 72), empty(kind, 20, 72)
    nearest.pack(weight)
    error = round_by_inputs(layer, weight, x.T @ x / len(x), 0.01)
    for told, made in ((error.gptq, layer), (error.nearest, nearest)):
        off = (x @ made.dense().T - x @ weight.T).norm() / (x @ weight.T).norm()
        assert told == pytest.approx(off.item(), rel=1e-3)
    assert error.gptq < 0.8 * error.nearest


@kinds
def test_inputs_that_are_never_read_and_equal_ones_do_no_harm(kind):
    weight, x = normal(6, 40, seed=2), normal(100, 40)
    x[:, 3] = 0
    x[:, 7] = x[:, 8]
    error = round_by_inputs(empty(kind, 6, 40), weight, x.T @ x, 0.01)
    assert error.gptq <= error.nearest
    zeros = round_by_inputs(empty(kind, 6, 40), weight, torch.zeros(40, 40), 0.01)
    assert zeros.gptq == zeros.nearest == 0


@kinds
def test_pruned_weights_stay_zero(kind):
    weight, x = normal(20, 72, seed=2) * 0.02, correlated(500, 72)
    kept = normal(20, 72, seed=4) > 0
    layer = empty(kind, 20, 72)
    error = round_by_inputs(layer, weight * kept, x.T @ x / 500, 0.01, kept=kept)
    assert not layer.dense()[~kept].any()
    assert error.gptq < error.nearest


def test_nearest_is_kept_where_gptq_is_worse():
    # Inputs without correlation give nothing to correct with, and refitted scales may be worse.
    layer, nearest = empty(Int4(), 8, 96), empty(Int4(), 8, 96)
    nearest.pack(weight := normal(8, 96))
    error = round_by_inputs(layer, weight, torch.eye(96), 0.01)
    assert error.gptq == error.nearest
    assert torch.equal(layer.dense(), nearest.dense())


def test_inputs_that_are_not_finite_are_refused():
    gram = torch.eye(8)
    gram[2, 2] = torch.nan
    with pytest.raises(FlyweightError, match="inputs on the calibration text are not finite"):
        round_by_inputs(empty(Int8(), 4, 8), normal(4, 8), gram, 0.01)


def test_clipping_cuts_rows_at_their_own_deviation():
    weight = normal(4, 1000) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    cut = clipped(weight, 2.0)
    deviation = weight.std(1, keepdim=True, correction=0)
    assert torch.equal(cut, weight.clamp(-2 * deviation, 2 * deviation))
    assert clipped(weight, None) is weight
    layer = empty(Int8(), 4, 1000)
    round_by_inputs(layer, weight, torch.eye(1000), 0.01, clip=2.0)
    assert layer.dense().abs().max() <= 2.01 * deviation.max()


# --- whole models ---

TEXT = torch.randint(40, (24, 33), generator=torch.Generator().manual_seed(3)).sort(1).values
BATCHES = [TEXT[:8, :-1], TEXT[8:16, :-1], TEXT[16:, :-1]]


def trained(**fields: object) -> Decoder:
    config = {"vocab_size": 40, "context": 32, "dim": 32, "layers": 2, "attention": {"heads": 2}}
    model = Decoder(ModelConfig.model_validate({**config, **fields}), seed=1)
    objective = NextTokenObjective(NextToken(), 40)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = Batch(inputs=TEXT[:, :-1], targets=TEXT[:, 1:], real_targets=TEXT[:, 1:].numel())
    for _ in range(60):
        loss = objective(model, batch).loss / batch.real_targets
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def by_inputs(model: Model, kind: LinearKind, **options: object):
    return quantize_by_inputs(model, kind, Int8(), BATCHES, 0.01, **options)  # pyright: ignore


SHAPES = {
    "plain": {},
    "untied": {"embedding": {"tied": False}, "mlp": {"kind": "gelu", "bias": True}},
    "shared": {"sharing": {"kind": "cycle", "times": 2}},
    "thinking": {"thinking": {"passes": 1}},
    "low rank": {"mlp": {"rank": 12}},
}


@kinds
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES.keys())
def test_no_layer_of_a_trained_model_is_worse_than_rounded_to_nearest(kind, fields):
    model = trained(**fields)
    small, errors = by_inputs(model, kind)
    blocks = [name for name, _ in layers_of(model) if name.startswith(("blocks", "head"))]
    assert list(errors) == blocks
    assert all(error.gptq <= error.nearest for error in errors.values())
    assert sum(error.gptq for error in errors.values()) < 0.9 * sum(
        error.nearest for error in errors.values()
    )
    assert small.config == quantize(model, kind, Int8()).config
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in quantize(model, kind, Int8()).state_dict().items()
    }


def test_the_model_given_is_left_alone_and_two_runs_are_equal():
    model = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (by_inputs(model, Int3())[0].state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(isinstance(layer, Linear) for _, layer in layers_of(model))


def test_it_predicts_better_than_nearest_rounding():
    model = trained()
    objective = NextTokenObjective(NextToken(), 40)
    batch = Batch(inputs=TEXT[:, :-1], targets=TEXT[:, 1:], real_targets=TEXT[:, 1:].numel())
    kind = Int3(group=64)
    with torch.no_grad():
        whole, nearest, gptq = (
            float(objective(each, batch).nll)
            for each in (model, quantize(model, kind, Dense()), by_inputs(model, kind)[0])
        )
    assert gptq - whole < 0.7 * (nearest - whole)


def test_adapters_stay_around_the_rounded_layers():
    model = trained(adapters=[{"kind": "lora", "targets": ["attention.qkv", "mlp.down"]}])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora." in name:
                parameter += 0.02 * normal(*parameter.shape)
    small, errors = by_inputs(model, Int8())
    assert "blocks.0.mlp.down" in errors
    with torch.no_grad():
        expected, found = model(TEXT[:, :-1]), small(TEXT[:, :-1])
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize(
    "fields", [{"kind": "linear"}, {"kind": "mlp", "hidden": 24}, {"kind": "lstm"}]
)
def test_baselines_are_rounded_by_the_same_rule(fields):
    config = TypeAdapter(Architecture).validate_python(
        {"vocab_size": 40, "context": 32, "dim": 32, **fields}
    )
    small, errors = by_inputs(build(config, seed=1), Int4())
    assert errors
    assert all(error.gptq <= error.nearest for error in errors.values())
    assert small.config.linears


def test_nothing_to_round_and_unknown_codes_are_refused(monkeypatch):
    model = trained()
    with pytest.raises(RequestError, match="all of them stay dense; use rounding: nearest"):
        by_inputs(model, Dense())
    monkeypatch.setitem(KINDS, "int4", Linear)
    with pytest.raises(RequestError, match="does not know the codes of kind int4"):
        by_inputs(model, Int4())
