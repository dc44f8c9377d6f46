from typing import Any

import pytest
import torch
import torch.nn.functional as F

from flyweight.config.linear_kinds import NF4, Dense, Int3, Int4, Int8, Int8Dynamic, LinearKind
from flyweight.config.schema import LstmConfig, ModelConfig
from flyweight.decode.generate import generate
from flyweight.errors import RequestError
from flyweight.model import kernels, linear
from flyweight.model.build import build

compiled = pytest.mark.skipif(bool(kernels.refusal()), reason=kernels.refusal())
KINDS = (
    *(Dense(), Int8(), NF4(), NF4(double=False), NF4(block=6), NF4(block=128, double=False)),
    *(Int4(), Int4(group=6), Int4(group=8), Int4(group=128), Int4(group=256)),
    *(Int3(), Int3(group=4), Int3(group=5), Int3(group=64), Int3(group=128)),
)


@compiled
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [(7, 5), (5, 123), (123, 64), (130, 768), (3, 1), (1, 30)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_product_is_that_of_the_matrix_it_stands_for(
    kind: LinearKind, size: tuple[int, int], threads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(size, generator=generator), torch.randn(size[0], generator=generator)
    for added in (None, bias):
        layer = linear.from_dense(kind, weight, added)
        stored = layer.stored()
        assert stored is not None
        product = kernels.Product(stored, layer.bias, threads)
        product.matrix.threads = threads  # a small matrix takes one
        for rows in (1, 2, kernels.MOST_ROWS):
            x = torch.randn(rows, size[1], generator=generator)
            expected = F.linear(x, layer.dense(), added)
            error = (product(x, rows) - expected).abs().max() / expected.abs().max()
            assert error < 3e-6


@compiled
@pytest.mark.parametrize("size", [(7, 5), (33, 70), (130, 768), (64, 3000)])
def test_rounded_inputs_give_the_same_bits_as_torch(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(size, generator=generator), torch.randn(size[0], generator=generator)
    layer = linear.from_dense(Int8Dynamic(), weight, bias)
    stored = layer.stored()
    assert stored is not None
    product = kernels.Product(stored, layer.bias, 1)
    x = torch.randn(5, size[1], generator=generator)
    x[1] = 0
    x[2, 0] = 1000.0
    with torch.inference_mode():
        assert torch.equal(product(x, 5), layer(x))
        assert torch.equal(product(x[3:4], 1), layer(x)[3:4])


@compiled
@pytest.mark.parametrize("size", [(7, 5), (130, 768), (64, 300)])
def test_a_rounded_row_is_the_same_in_any_batch(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = linear.from_dense(Int8Dynamic(), torch.randn(size, generator=generator), None)
    stored = layer.stored()
    assert stored is not None
    product = kernels.Product(stored, None, 1)
    x = torch.randn(kernels.MOST_ROUNDED_ROWS, size[1], generator=generator)
    every = product(x, len(x))
    with torch.inference_mode():
        assert torch.equal(every, layer(x))
    for rows in (1, 3, 33, 127):
        assert torch.equal(product(x[:rows], rows), every[:rows])


@compiled
def test_numbers_far_from_the_largest_keep_their_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = linear.from_dense(Int8(), torch.randn(16, 256, generator=generator), None)
    stored = layer.stored()
    assert stored is not None
    x = torch.randn(2, 256, generator=generator)
    x[0, 3] = 300.0
    x[1] = 0
    product = kernels.Product(stored, None, 1)(x, 2)
    expected = F.linear(x, layer.dense())
    assert (product - expected).abs().max() < 3e-6 * expected.abs().max()
    assert not torch.isfinite(kernels.Product(stored, None, 1)(x * torch.nan, 2)).any()


@compiled
def test_a_group_that_splits_a_byte_is_left_to_torch() -> None:
    layer = linear.from_dense(Int4(group=5), torch.randn(8, 20), None)
    with kernels.engine("compiled") as engine:
        assert engine is not None
        assert engine.product(layer, torch.ones(1, 20)) is None


@compiled
def test_bfloat16_matrices_are_multiplied_in_float32_and_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(33, 70, generator=generator).bfloat16()
    x = torch.randn(1, 2, 70, generator=generator).bfloat16()
    layer = linear.from_dense(Dense(), weight, None)
    with torch.inference_mode(), kernels.engine("compiled"):
        found = layer(x)
    torch.testing.assert_close(found, F.linear(x.float(), weight.float()).bfloat16())


@compiled
@pytest.mark.parametrize("kind", ["dense", "int8", "nf4"])
def test_the_engine_takes_few_rows_and_leaves_the_rest_to_torch(kind: str) -> None:
    layer = linear.build(linear.KINDS[kind].default_kind if kind != "dense" else Dense(), 64, 64, 0)
    layer.reset(1.0, torch.Generator().manual_seed(0))
    with torch.inference_mode(), kernels.engine("compiled") as engine:
        assert engine is not None
        few, many = torch.ones(2, 3, 64), torch.ones(3, 3, 64)
        assert engine.product(layer, few) is not None
        assert engine.product(layer, many) is None
        assert engine.product(layer.double(), few) is not None  # bound once, while in use
    assert kernels.active() is None


@compiled
def test_float64_and_other_devices_are_left_to_torch() -> None:
    with kernels.engine("auto") as engine:
        assert engine is not None
        layer = linear.from_dense(Dense(), torch.ones(4, 4, dtype=torch.float64), None)
        assert engine.product(layer, torch.ones(1, 4, dtype=torch.float64)) is None


def test_eager_leaves_everything_to_torch() -> None:
    with kernels.engine("eager") as engine:
        assert engine is None
        assert kernels.active() is None


@compiled
def test_under_autocast_there_is_no_compiled_engine() -> None:
    with torch.autocast("cpu"):
        with kernels.engine("auto") as engine:
            assert engine is None
        with pytest.raises(RequestError, match="autocast chooses the dtype"):
            kernels.check_engine("compiled")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(RequestError, match="quick is not one of auto, eager, compiled"):
        kernels.check_engine("quick")


def test_what_cannot_be_compiled_is_refused_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "_fault", lambda: "no C compiler was found")
    with kernels.engine("auto") as engine:
        assert engine is None
    with pytest.raises(RequestError, match="no C compiler was found; use eager"):
        kernels.check_engine("compiled")


FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "norm": "layernorm", "mlp": "gelu"},
    "llama": {"attention": {"heads": 4, "kv_heads": 2}},
    "window": {"attention": {"heads": 2, "window": 6, "sinks": 2}},
    "shared": {"sharing": {"kind": "cycle", "times": 2}},
    "thinking": {"thinking": {"kind": "deep", "passes": 2}},
    "bigram": {"embedding": {"bigram": "exact"}},
}


@compiled
@pytest.mark.parametrize("kind", ["dense", "int8", "int8_dynamic", "int4", "int3", "nf4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_texts_are_those_of_torch(name: str, kind: str) -> None:
    config = ModelConfig.model_validate(
        {
            "vocab_size": 61,
            "context": 48,
            "dim": 32,
            "layers": 2,
            "init": {"std": 0.5},
            "linears": {"blocks": kind},
            **FAMILIES[name],
        }
    )
    model = build(config)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    expected = generate(model, prompts, max_new_tokens=20, engine="eager")
    assert generate(model, prompts, max_new_tokens=20, engine="compiled") == expected
    alone = [generate(model, [each], max_new_tokens=20, engine="compiled")[0] for each in prompts]
    assert alone == expected


@compiled
def test_drawn_texts_are_those_of_torch() -> None:
    config = {"vocab_size": 61, "context": 48, "dim": 32, "layers": 2, "linears": {"*": "nf4"}}
    model = build(ModelConfig.model_validate(config))
    eager, ours = (
        generate(model, [[1, 2], [3]], max_new_tokens=30, engine=engine, temperature=0.8, seed=3)
        for engine in ("eager", "compiled")
    )
    assert eager == ours


@compiled
def test_packed_lstms_too() -> None:
    config = {"vocab_size": 61, "context": 32, "dim": 32, "layers": 2, "linears": {"*": "int8"}}
    model = build(LstmConfig.model_validate({"kind": "lstm", **config}))
    eager, ours = (
        generate(model, [[1, 2], [3]], max_new_tokens=30, engine=engine)
        for engine in ("eager", "compiled")
    )
    assert eager == ours


PREFIXES = [{"kind": "prefix", "length": 4}, {"kind": "prefix", "length": 3, "softmax": "shared"}]


@compiled
@pytest.mark.parametrize("kind", ["dense", "int8", "nf4"])
@pytest.mark.parametrize("prefix", PREFIXES, ids=["apart", "shared"])
def test_a_prefix_before_the_keys_changes_the_text_alike(kind: str, prefix: dict[str, Any]) -> None:
    config = {"vocab_size": 61, "context": 48, "dim": 32, "layers": 2, "init": {"std": 0.5}}
    plain = {**config, "linears": {"blocks": kind}}
    model = build(ModelConfig.model_validate({**plain, "adapters": [prefix]}))
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():  # one that does nothing would prove nothing
        for name, parameter in model.named_parameters():
            if "prefix" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draws))
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    expected = generate(model, prompts, max_new_tokens=20, engine="eager")
    assert generate(model, prompts, max_new_tokens=20, engine="compiled") == expected
    without = generate(build(ModelConfig.model_validate(plain)), prompts, max_new_tokens=20)
    assert without != expected
