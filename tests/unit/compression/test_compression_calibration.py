"""What layers read: the same as hooks on the whole model see, block by block, through changed blocks."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from flyweight.compression.calibration import (
    _document_batches,
    calibrated_layers,
    layer_inputs,
)
from flyweight.config.schema import Architecture
from flyweight.data.corpus import Split
from flyweight.model.build import Model, build
from flyweight.model.linear_layer import layers_of
from flyweight.model.lstm import LstmLayer
from flyweight.spec.linears import linear_names

TEXT = torch.arange(5 * 12).view(5, 12) * 7 % 40
BATCHES = [TEXT[:2], TEXT[2:4], TEXT[4:]]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"embedding": {"tied": False}},
    "factorised": {"embedding": {"rank": 8}, "mlp": {"rank": 6}},
    "differing": {"blocks": {"1": {"attention": {"window": 3}}}, "layers": 3},
    "repeat": {"sharing": "repeat"},
    "cycle": {"sharing": {"kind": "cycle", "times": 2, "index": True}},
    "span": {"layers": 3, "sharing": {"kind": "span", "span": (1, 1), "times": 3}},
    "unet": {"layers": 4, "skips": "unet"},
    "skips": {"layers": 4, "skips": ["unet", "embedding"]},
    "embedding read again": {"layers": 3, "skips": "embedding"},
    "gates": {"attention": {"heads": 2, "gate": True}},
    "values": {"layers": 3, "attention": {"heads": 2, "value_residual": True}},
    "values in a loop": {"sharing": "cycle", "attention": {"heads": 2, "value_residual": True}},
    "thinking": {"thinking": {"passes": 2}},
    "restarting": {"thinking": {"passes": 2, "memory": "first", "input": "embedding", "rate": 0.1}},
    "adapted": {"adapters": [{"kind": "lora", "targets": ["attention.qkv", "mlp.down"]}]},
    "linear": {"kind": "linear"},
    "mlp": {"kind": "mlp", "hidden": 10, "layers": 2},
    "lstm": {"kind": "lstm", "layers": 2, "tied": False},
}
models = pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS.keys())


def model_of(fields: dict[str, Any]) -> Model:
    decoder = {"layers": 2, "attention": {"heads": 2}} if "kind" not in fields else {}
    config = TypeAdapter(Architecture).validate_python(
        {"vocab_size": 40, "context": 12, "dim": 16, **decoder, **fields}
    )
    model = build(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # projections that start at zero would hide what goes through a block
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def seen(model: Model) -> dict[str, Tensor]:
    """Return the mean of x x^T that hooks see on whole forward passes, by the layer's name."""
    read: dict[str, list[Tensor]] = {}

    def keep(name: str):
        return lambda _, reads: read.setdefault(name, []).append(reads[0].flatten(0, -2))

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers_of(model)]
    for layer in model.modules():
        if isinstance(layer, LstmLayer):
            layer.fuses = False
    with torch.no_grad():
        for batch in BATCHES:
            model(batch)
    for hook in hooks:
        hook.remove()
    every = {name: torch.cat(parts) for name, parts in read.items()}
    return {name: x.T @ x / len(x) for name, x in every.items()}


@models
def test_each_layer_reads_what_hooks_on_the_whole_model_see(fields):
    model = model_of(fields)
    found: dict[str, Tensor] = {}
    done: list[float] = []
    for inputs in layer_inputs(model, BATCHES, done.append):
        found |= dict.fromkeys(inputs.names, inputs.gram)
    expected = seen(model)
    wanted = calibrated_layers(model.config, linear_names(model.config))
    assert list(found) == [name for name in linear_names(model.config) if name in wanted]
    for name in wanted:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert done == sorted(done)
    assert done[-1] == 1.0


@models
def test_later_blocks_read_what_changed_ones_give(fields):
    model = model_of(fields)
    found: dict[str, Tensor] = {}
    layers = dict(layers_of(model))
    for inputs in layer_inputs(model, BATCHES):
        for name in inputs.names:
            # What a layer reads when its turn comes; the layers of its own block are as they were.
            found[name] = inputs.gram
            with torch.no_grad():
                layers[name].get_parameter("weight").mul_(0.7)
    replayed = model_of(fields)
    parts = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in found))
    for part in parts:
        expected = seen(replayed)
        for name, layer in layers_of(replayed):
            if name == part or name.startswith(f"{part}."):
                torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
                with torch.no_grad():
                    layer.get_parameter("weight").mul_(0.7)


def test_layers_that_read_the_same_share_one_sum():
    names = [inputs.names for inputs in layer_inputs(model_of({}), BATCHES)]
    first = "blocks.0.attention"
    assert names[0] == (f"{first}.q", f"{first}.k", f"{first}.v")
    assert ("blocks.1.mlp.gate", "blocks.1.mlp.up") in names


def test_a_model_is_as_it_was_after_a_walk_that_ended_early():
    model = model_of({})
    expected = model(TEXT)
    walk = layer_inputs(model, BATCHES)
    next(walk)
    walk.close()
    assert torch.equal(model(TEXT), expected)


def test_no_finished_block_is_computed_twice_more():
    model = model_of({"layers": 4})
    calls: list[str] = []
    for name, layer in layers_of(model):
        if name.endswith("attention.q"):
            layer.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    for _ in layer_inputs(model, BATCHES):
        pass
    # Once to gather, once more with the weights that it was left with; the last has no next block.
    assert [calls.count(f"blocks.{layer}.attention.q") for layer in range(4)] == [6, 6, 6, 3]


def test_norms_are_those_of_the_columns():
    inputs = next(layer_inputs(model_of({}), BATCHES))
    torch.testing.assert_close(inputs.norms() ** 2, inputs.gram.diagonal())


def test_isolated_documents_are_read_from_their_beginnings_in_rows_of_their_own() -> None:
    lengths = [5, 9, 3, 8, 7, 2, 8]
    starts = np.cumsum([0, *lengths[:-1]])
    tokens = np.concatenate([100 * n + np.arange(size) for n, size in enumerate(lengths)])
    split = Split("train", tokens, starts, bytes=1, words=1, unknown=0)
    rows = torch.cat(_document_batches(split, tokens=14, window=32, seed=0))
    assert rows.shape == (2, 7)  # half of the documents have 7 tokens
    assert ((rows % 100) == torch.arange(7)).all()
    long = {int(row[0]) // 100 for row in rows}
    assert long < {1, 3, 4, 6}
    short = torch.cat(_document_batches(split, tokens=100, window=4, seed=0))
    assert short.shape == (5, 4)
