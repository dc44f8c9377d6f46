"""A kind of linear layer from a package outside `src`, over every kind that it can hold."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import flyweight as fw
from flyweight.compression.quantize import quantize
from flyweight.config import load, metrics, schema
from flyweight.config.linear_kinds import REGISTRY, Dense, LinearKind, register_kind
from flyweight.config.schema import AdamW, ModelConfig, Muon, Train
from flyweight.evaluation import bench
from flyweight.model import folder, linear
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.planning import memory
from flyweight.spec import flops
from flyweight.store import stage_registry as stages
from flyweight.training import optimizers

PLUGINS = Path(__file__).parents[3] / "examples" / "plugin"
BASES = ["dense", "int8", {"kind": "nf4", "block": 16}]
TOKENS = torch.arange(22).view(2, 11) % 50


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the package, and forget the kind afterwards: other tests list what is registered."""
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), *sys.path]))
    tables = (schema.STAGE_CONFIGS, stages.REGISTERED, metrics.METRICS)
    before = [dict(table) for table in tables]
    import flyweight_toy.linear_scaled as module

    module.register()
    yield module
    for table, content in zip(tables, before, strict=True):  # the package adds these as well
        table.clear()
        table.update(content)
    for registry in (REGISTRY, linear.KINDS):
        registry.pop("scaled", None)
    _forget()


def _forget() -> None:
    from flyweight.config import linear_kinds

    linear_kinds._adapter.cache_clear()


def config(base: Any, **fields: Any) -> ModelConfig:
    shape = {"vocab_size": 50, "context": 16, "dim": 32, "layers": 2, "mlp": {"bias": True}}
    linears = {"*": {"kind": "scaled", "base": base}}
    return ModelConfig.model_validate({**shape, "linears": linears, **fields}).resolved()


@pytest.mark.parametrize("base", [*BASES, {"kind": "scaled", "base": "int8"}])
def test_a_kind_tells_the_tensors_of_its_layers(base: Any) -> None:
    kind = config(base).linears["*"]
    layer = linear.build(kind, 40, 12, bias=False)
    layer.reset(0.1, torch.Generator().manual_seed(0))
    trained = {name for name, tensor in layer.named_parameters() if tensor.requires_grad}
    state = layer.state_dict()
    told = {tensor.name: tensor for tensor in kind.tensors(12, 40)}
    assert state.keys() == told.keys()
    for name, tensor in state.items():
        assert tuple(tensor.shape) == told[name].shape
        assert tensor.nbytes == told[name].nbytes(4)
        assert (name in trained) == told[name].trains
    assert layer.stored_bytes() == kind.stored_bytes(12, 40, 4)
    x = torch.randn(3, 40)
    torch.testing.assert_close(layer(x), x @ layer.dense().T, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.rows(torch.tensor([3, 1])), layer.dense()[[3, 1]])


@pytest.mark.parametrize("base", BASES)
def test_a_model_of_it_is_counted_and_costed(base: Any) -> None:
    model = Decoder(config(base))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    scales = sum(layer.out_features for _, layer in layers_of(model))
    plain = config(base, linears={})
    assert flops.trained_parameters(model.config) == trained
    assert flops.parameters(model.config).unique == flops.parameters(plain).unique + scales
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert flops.weight_bytes(model.config) == held
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **others: 2 * a[0] * a[1] * b[1]}
    with torch.device("meta"):
        model, tokens = Decoder(config(base)), torch.zeros(1, 11, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        model(tokens)
    assert forward.get_total_flops() == flops.forward_flops(model.config, 11)
    with FlopCounterMode(display=False, custom_mapping=in_place) as training:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert training.get_total_flops() == flops.training_flops(model.config, 11)
    # One scale a row is a vector: Muon leaves it to AdamW.
    assert flops.optimizer_flops(model.config, Muon()) == flops.ADAMW_FLOPS * trained
    plan = memory.training(model.config, Train(steps=1, batch=2), 16)
    assert plan.gradients == 4 * trained and plan.weights == held


@pytest.mark.parametrize("base", BASES)
def test_training_moves_what_trains_and_nothing_else(base: Any) -> None:
    model = Decoder(config(base))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for optimizer in optimizers.build_optimizers(model, AdamW(lr=0.01), "fp32"):
        F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        frozen = ".base." in name
        assert torch.equal(tensor, before[name]) == frozen, name


@pytest.mark.parametrize("base", BASES)
def test_it_is_made_by_quantize_and_comes_back_from_a_folder(base: Any, tmp_path: Path) -> None:
    dense = Decoder(config("dense", linears={}))
    kind = config(base).linears["*"]
    model = quantize(dense, kind, Dense())
    expected = quantize(dense, kind.base, Dense()) if base != "dense" else dense
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), expected(TOKENS), rtol=1e-5, atol=1e-5)
    folder.save(model, tmp_path)
    again = folder.load(tmp_path)
    assert again.config == model.config
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )
    frozen = {name for name, tensor in again.named_parameters() if not tensor.requires_grad}
    assert frozen == {name for name, tensor in model.named_parameters() if not tensor.requires_grad}
    written = json.loads((tmp_path / "config.json").read_text())["linears"]["blocks"]
    assert written["kind"] == "scaled" and written["base"]["kind"] == kind.base.kind


def test_a_recipe_may_name_it_and_another_process_knows_it(tmp_path: Path) -> None:
    described = load.json_schema()["$defs"]
    assert "scaled" in described["Quantize"]["properties"]["kind"]["discriminator"]["mapping"]
    assert "scaled" in described["Scaled"]["properties"]["base"]["discriminator"]["mapping"]
    folder.save(Decoder(config("int8")), tmp_path)
    from flyweight.config.schema import Bench

    asked = Bench(stage="bench", input="x", prompt=4, new_tokens=2, repeats=1)
    measured = bench.bench(tmp_path, asked, threads=1)
    assert measured.kernels == {"scaled int8": 15}


def test_what_is_wrong_names_the_place() -> None:
    with pytest.raises(ValueError, match=r"linears.\*.base.block: 15 is odd"):
        config({"kind": "nf4", "block": 15})
    with pytest.raises(ValueError, match="nf5"):
        config("nf5")


def test_a_name_is_registered_once() -> None:
    class Other(LinearKind):
        kind: Literal["scaled"] = "scaled"

    with pytest.raises(ValueError, match="Scaled is already called scaled"):
        register_kind(Other)

    class Nameless(LinearKind):
        pass

    with pytest.raises(ValueError, match="declare the name"):
        register_kind(Nameless)
    with pytest.raises(ValueError, match="derive the class"):
        fw.register_linear(Dense, torch.nn.Linear)  # pyright: ignore[reportArgumentType]
