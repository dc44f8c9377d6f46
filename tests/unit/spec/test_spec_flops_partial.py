from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config.schema import Adapter, LstmConfig, MlpConfig, ModelConfig, TrainedPart
from flyweight.model.attach import attached, freeze
from flyweight.model.build import build
from flyweight.spec import flops
from flyweight.spec.flops_partial import backward_flops

LENGTH = 11
IN_PLACE = {torch.ops.aten.addmm_: lambda _, a, b, **others: 2 * a[0] * a[1] * b[1]}
THINKING: dict[str, Any] = {"kind": "deep", "passes": 2}
SHAPES: list[dict[str, Any]] = [
    {},
    {"attention": {"heads": 4, "kv_heads": 2, "qk_norm": True, "gain": True}, "mlp": "gelu"},
    {"position": "learned", "norm": "layernorm", "attention": {"heads": 3, "bias": True}},
    {"linears": {"*": "int8"}, "embedding": {"tied": False}},
    {"linears": {"blocks": "nf4"}, "norm": {"kind": "rmsnorm", "placement": "post"}},
    {"norm": {"kind": "rmsnorm", "placement": "post", "final": False}, "residual": "alpha"},
    {"sharing": {"kind": "cycle", "times": 2, "index": True}, "mlp": {"kind": "relu", "rank": 5}},
    {"thinking": THINKING, "embedding": {"rank": 6}},
    {"thinking": {**THINKING, "memory": "first", "input": "embedding", "learned": True}},
    {"layers": 4, "skips": ["unet", "embedding"]},
    {
        "layers": 3,
        "skips": "embedding",
        "norm": {"kind": "rmsnorm", "placement": "post"},
        "linears": {"*": "int8"},
    },
    {"attention": {"heads": 2, "gate": True}},
    {
        "attention": {"heads": 2, "gate": True},
        "norm": {"kind": "rmsnorm", "placement": "post"},
        "linears": {"blocks.*.gate": "dense", "*": "int8"},
    },
    {"attention": {"heads": 2, "value_residual": True}},
    {"attention": {"heads": 2, "value_residual": True}, "sharing": "cycle"},
    {
        "attention": {"heads": 2, "value_residual": True},
        "norm": {"kind": "rmsnorm", "placement": "post"},
        "linears": {"*": "int8"},
    },
    {"attention": {"heads": 2, "window": 4, "sinks": 1}, "embedding": {"bigram": "hashed"}},
]
ADAPTERS: list[list[Any]] = [
    ["lora"],
    [{"kind": "lora", "targets": ["mlp.down"], "r": 2}],
    [{"kind": "lora", "targets": ["attention", "mlp"], "r": 3, "per": "visit"}],
    [{"kind": "lora", "targets": ["blocks.1.*"], "r": 3}],
    ["ia3"],
    [{"kind": "bottleneck", "after": ["mlp"], "dim": 5}],
    [{"kind": "bottleneck", "dim": 5, "per": "visit"}],
    [{"kind": "prefix", "length": 3}],
    [{"kind": "prefix", "length": 3, "softmax": "shared"}],
    ["lora", "ia3", {"kind": "bottleneck", "dim": 3}, {"kind": "prefix", "per": "layer"}],
    ["ia3", {"kind": "prefix", "per": "layer", "length": 2, "softmax": "shared"}],
]


def config(**fields: Any) -> ModelConfig:
    sizes = {"vocab_size": 40, "context": 14, "dim": 24, "layers": 2}
    return ModelConfig.model_validate({**sizes, **fields}).resolved()


def counted(model: Any, part: TrainedPart) -> int:
    """Return the FLOPs that torch counts in forward and backward on the meta device."""
    with torch.device("meta"):
        built, tokens = build(model), torch.zeros(1, LENGTH, dtype=torch.long)
    freeze(built, model, part)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        F.cross_entropy(built(tokens).flatten(0, 1), tokens.flatten()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_following_the_visits_gives_the_sum_over_matrices(shape: dict[str, Any]) -> None:
    model = config(**shape)
    backward = backward_flops(model, LENGTH, "full")
    assert flops.forward_flops(model, LENGTH) + backward == flops.training_flops(model, LENGTH)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_frozen_body_costs_what_torch_counts(shape: dict[str, Any]) -> None:
    model = config(**shape)
    found = flops.training_flops(model, LENGTH, trains="frozen")
    if not flops.trained_parameters(model, "frozen"):
        assert found == flops.forward_flops(model, LENGTH)
        return
    assert found == counted(model, "frozen")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("adapters", ADAPTERS, ids=str)
@pytest.mark.parametrize("part", ["adapters", "full"])
def test_adapters_cost_what_torch_counts(
    adapters: list[Any], shape: dict[str, Any], part: TrainedPart
) -> None:
    read: TypeAdapter[tuple[Adapter, ...]] = TypeAdapter(tuple[Adapter, ...])
    model = attached(config(**shape), read.validate_python(adapters)).resolved()
    assert flops.training_flops(model, LENGTH, trains=part) == counted(model, part)
    with torch.device("meta"):
        built = build(model)
    assert flops.weight_bytes(model) == sum(each.nbytes for each in built.state_dict().values())


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_the_head_of_a_baseline(kind: str) -> None:
    sizes = {"vocab_size": 40, "context": 12, "dim": 8, "hidden": 8, "layers": 1}
    untied = {**sizes, "tied": False}
    model: Any = {
        "mlp": lambda: MlpConfig.model_validate({"kind": "mlp", **sizes}).resolved(),
        "lstm": lambda: LstmConfig.model_validate({"kind": "lstm", **untied}).resolved(),
    }[kind]()
    found = flops.training_flops(model, LENGTH, trains="frozen")
    head = 2 * LENGTH * 40 * 8
    assert found == flops.forward_flops(model, LENGTH) + head


def test_a_frozen_first_half_costs_no_backward_pass() -> None:
    model = config(layers=4)
    read: TypeAdapter[tuple[Adapter, ...]] = TypeAdapter(tuple[Adapter, ...])
    late = read.validate_python([{"kind": "lora", "targets": ["blocks.3.mlp.down"], "r": 2}])
    cheap = flops.training_flops(attached(model, late), LENGTH, trains="adapters")
    head = 2 * LENGTH * 40 * 24
    assert cheap < 1.1 * flops.forward_flops(model, LENGTH) + head
