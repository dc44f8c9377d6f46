from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from flyweight.config import catalogue
from flyweight.config.finetuning import with_adapters
from flyweight.config.schema import AdamW, Lora, Method, ModelConfig
from flyweight.spec import flops
from flyweight.spec.adapters import (
    adapter_bytes,
    adapter_faults,
    adapter_tensors,
    sites,
    trained_tensors,
)

DORA = {"kind": "dora", "targets": ["attention.qkv"], "r": 8}
TARGETS = ["attention.q", "attention.k", "attention.v"]


def adapted(model: str, *adapters: Any, **fields: Any) -> ModelConfig:
    plain = catalogue.load(model)
    return ModelConfig.model_validate(
        {**plain.model_dump(), **fields, "adapters": list(adapters)}
    ).resolved()


def small(*adapters: Any, **fields: Any) -> ModelConfig:
    sizes = {"vocab_size": 50, "context": 16, "dim": 24, "layers": 2}
    return ModelConfig.model_validate({**sizes, **fields, "adapters": list(adapters)})


@pytest.mark.parametrize(
    ("adapter", "count"),
    [
        ({"kind": "lora", "targets": ["attention.qkv"], "r": 8}, 294_912),
        ({"kind": "lora", "targets": TARGETS, "r": 8}, 442_368),
        (DORA, 294_912 + 27_648),
        ({"kind": "ia3", "targets": ["attention.k", "attention.v", "mlp.down"]}, 55_296),
        ({"kind": "bottleneck", "after": ["attention", "mlp"], "dim": 64}, 2_379_264),
        ({"kind": "prefix", "length": 20}, 368_640),
    ],
)
def test_counts_on_gpt2(adapter: dict[str, Any], count: int) -> None:
    model = adapted("gpt2", adapter)
    base = flops.parameters(catalogue.load("gpt2")).unique
    assert adapter_faults(model) == []
    assert flops.trained_parameters(model, "adapters") == count
    assert flops.parameters(model).by_part["adapters"] == count
    assert flops.parameters(model).unique == base + count
    assert sum(tensor.size for tensor in adapter_tensors(model)) == count
    assert adapter_bytes(model) == 4 * count


def test_the_head_and_the_final_norm_of_gpt2() -> None:
    model = catalogue.load("gpt2")
    assert flops.trained_parameters(model, "frozen") == 38_598_912
    trains = trained_tensors(model, "frozen")
    assert trains("embedding.tokens.weight")
    assert trains("norm.bias")
    assert not trains("embedding.positions.weight")
    assert not trains("blocks.11.mlp_norm.weight")


def test_an_untied_table_is_not_the_head() -> None:
    model = small(embedding={"tied": False})
    trains = trained_tensors(model, "frozen")
    assert trains("head.linear.weight")
    assert not trains("embedding.tokens.weight")
    assert flops.trained_parameters(model, "frozen") == 50 * 24 + 24


def test_names_of_tensors() -> None:
    joint = {tensor.name: tensor.shape for tensor in adapter_tensors(small("lora"))}
    assert joint["blocks.1.attention.qkv.lora.a"] == (8, 24)
    assert joint["blocks.1.attention.qkv.lora.b"] == (72, 8)
    apart = {tensor.name for tensor in adapter_tensors(small({"kind": "lora", "targets": "*.q"}))}
    assert apart == {f"blocks.{n}.attention.q.lora.{part}" for n in (0, 1) for part in "ab"}
    trains = trained_tensors(small("lora"), "adapters")
    assert trains("blocks.1.attention.qkv.lora.a")
    assert not trains("blocks.1.attention.q.weight")


def test_each_visit_of_a_shared_layer_may_have_its_own() -> None:
    shared = {"sharing": {"kind": "cycle", "times": 3}}
    one = small({"kind": "lora", "targets": "mlp.down", "per": "layer"}, **shared)
    each = small({"kind": "lora", "targets": "mlp.down", "per": "visit"}, **shared)
    assert flops.trained_parameters(each, "adapters") == 3 * flops.trained_parameters(
        one, "adapters"
    )
    assert {site.copies for site in sites(each)} == {3}
    prefixes = small({"kind": "prefix", "length": 5}, **shared)
    assert flops.trained_parameters(prefixes, "adapters") == 2 * 3 * 2 * 5 * 24
    thinking = small({"kind": "prefix", "length": 5}, thinking={"kind": "deep", "passes": 2})
    assert {site.copies for site in sites(thinking)} == {3}


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        (["lora", {"kind": "lora", "targets": "attention.k"}], "has a lora already, adapters.0"),
        ([{"kind": "lora", "targets": ["attention.qkv", "attention.q"]}], "named twice"),
        ([{"kind": "lora", "targets": ["mlp.dwn"]}], "mlp.gate_up"),
        ([{"kind": "lora", "targets": ["embedding.tokens"]}], "is a table of tokens"),
        ([{"kind": "ia3", "targets": ["head"]}], "is a table of tokens"),
        (["ia3", {"kind": "dora", "targets": "attention.k"}], "put it first"),
        (["prefix", "prefix"], "has a prefix already"),
    ],
)
def test_what_is_refused(adapters: list[Any], words: str) -> None:
    model = small(*adapters, embedding={"tied": False}, linears={"embedding": "int8"})
    faults = adapter_faults(model)
    assert faults
    assert words in " ".join(faults)


def test_gate_and_up_are_joint_only_where_there_is_a_gate() -> None:
    joint = {"kind": "lora", "targets": ["mlp.gate_up"]}
    assert adapter_faults(small(joint)) == []
    assert "mlp.up" in adapter_faults(small(joint, mlp="gelu"))[0]


def test_a_star_takes_every_matrix_once() -> None:
    found = sites(small({"kind": "lora", "targets": ["*"]}))
    assert len(found) == 2 * 7
    assert not any(site.joint for site in found)


def test_names_that_stand_for_an_option() -> None:
    method: TypeAdapter[Any] = TypeAdapter(Method)
    assert method.validate_python("rslora") == Lora(scale="rs")
    assert method.validate_python({"kind": "dora", "r": 4}) == Lora(dora=True, r=4)
    assert method.validate_python("rslora").factor == 32 / 8**0.5
    with pytest.raises(ValidationError):
        method.validate_python({"kind": "lora", "targets": []})


def test_a_model_without_adapters_writes_none() -> None:
    assert "adapters" not in small().model_dump()
    again = ModelConfig.model_validate_json(small("dora", "prefix").model_dump_json())
    assert again == small("dora", "prefix")


def test_the_softmax_of_a_prefix_is_written_where_it_is_shared() -> None:
    (own,) = small("prefix").adapters
    (shared,) = small({"kind": "prefix", "softmax": "shared"}).adapters
    assert "softmax" not in own.model_dump()  # ids of models from before stay as they are
    assert shared.model_dump()["softmax"] == "shared"
    plain = catalogue.load("gpt2")
    tuned = with_adapters(plain, [shared])
    assert (plain.context, tuned.context) == (1024, 1004)
    assert flops.parameters(tuned).unique == flops.parameters(plain).unique + 368_640
    assert small("prefix").first_position == 0
    assert small({"kind": "prefix", "softmax": "shared", "length": 7}).first_position == 7


def test_adamw_decays_matrices_and_not_factors() -> None:
    matrices = flops.trained_parameters(small("lora"), "adapters")
    assert flops.optimizer_flops(small("lora"), AdamW(), "adapters") == 14 * matrices
    factors = flops.trained_parameters(small("ia3"), "adapters")
    assert flops.optimizer_flops(small("ia3"), AdamW(), "adapters") == 13 * factors


@pytest.mark.parametrize("softmax", ["own", "shared"])
def test_a_prefix_costs_two_products_of_attention(softmax: str) -> None:
    plain, prefixed = small(), small({"kind": "prefix", "length": 5, "softmax": softmax})
    more = flops.forward_flops(prefixed, 9) - flops.forward_flops(plain, 9)
    assert more == 2 * (2 * 2 * 24 * 9 * 5)
