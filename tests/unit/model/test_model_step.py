from typing import Any

import pytest
import torch
from torch import Tensor

from flyweight.config.schema import ModelConfig
from flyweight.model import kernels, step
from flyweight.model.attention import attention_kernel
from flyweight.model.build import build
from flyweight.model.decoder import Decoder

pytestmark = pytest.mark.skipif(bool(kernels.refusal()), reason=kernels.refusal())

WALKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "gpt2": {
        "position": "learned",
        "norm": "layernorm",
        "mlp": {"kind": "gelu", "approximate": "tanh", "bias": True},
        "attention": {"heads": 4, "bias": True},
    },
    "no bias": {"norm": {"kind": "layernorm", "bias": False}, "mlp": "gelu"},
    "groups": {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 6}},
    "normed": {"attention": {"heads": 4, "qk_norm": True, "gain": True}},
    "part": {"position": {"kind": "rope", "fraction": 0.5}},
    "shared": {"sharing": {"kind": "cycle", "times": 2}},
    "values": {"layers": 3, "attention": {"heads": 4, "kv_heads": 2, "value_residual": True}},
    "values in a loop": {
        "sharing": {"kind": "cycle", "times": 2},
        "attention": {"heads": 4, "value_residual": True, "gain": True},
    },
    "some values": {
        "layers": 3,
        "attention": {"heads": 4, "value_residual": True},
        "blocks": {"1": {"attention": {"value_residual": False, "gate": True}}},
    },
    "gates": {"attention": {"heads": 4, "gate": True}},
    "unet": {"layers": 5, "skips": "unet"},
    "unet in a loop": {"sharing": "cycle", "skips": "unet"},
    "embedding": {"layers": 3, "skips": "embedding"},
    "all of it": {
        "layers": 3,
        "skips": ["unet", "embedding"],
        "attention": {"heads": 4, "kv_heads": 1, "value_residual": True, "gate": True},
    },
    "rank": {"mlp": {"kind": "swiglu", "rank": 30}, "attention": {"heads": 2, "head_dim": 8}},
    "rank of some": {"mlp": "gelu", "blocks": {"1": {"mlp": {"rank": 5}}}},
    "index": {"sharing": {"kind": "cycle", "times": 2, "index": True}},
    "index of some": {
        "layers": 3,
        "sharing": {"kind": "span", "span": (1, 1), "times": 2, "index": True},
    },
    "index and skips": {
        "layers": 3,
        "sharing": {"kind": "repeat", "times": 2, "index": True},
        "skips": ["unet", "embedding"],
    },
    "poster": {
        "layers": 1,
        "sharing": {"kind": "all", "times": 8, "index": True},
        "mlp": {"kind": "swiglu", "hidden": 64, "rank": 10},
        "attention": {"heads": 4, "kv_heads": 2, "qk_norm": True},
    },
    "lora": {"adapters": [{"kind": "lora", "r": 2, "alpha": 1, "targets": ["*"]}]},
    "joint lora": {
        "mlp": "swiglu",
        "attention": {"heads": 4, "kv_heads": 2, "gate": True},
        "adapters": [
            {"kind": "lora", "r": 3, "alpha": 1, "targets": ["attention.qkv", "mlp.gate_up"]}
        ],
    },
    "lora of a reduced one": {
        "mlp": {"kind": "gelu", "rank": 4},
        "adapters": [
            {"kind": "lora", "r": 2, "alpha": 1, "targets": ["*.up.reduce", "*.up.expand"]}
        ],
    },
    "masked lora in a loop": {
        "sharing": {"kind": "cycle", "times": 2},
        "adapters": [{"kind": "lora", "r": 4, "alpha": 1, "masked": True}],
    },
    "odd": {"dim": 30, "mlp": {"kind": "swiglu", "hidden": 37}, "attention": {"heads": 3}},
    **{kind: {"mlp": kind} for kind in ("relu", "relu2", "geglu", "double_relu", "double_silu")},
    **{
        f"{kind} rank": {"mlp": {"kind": kind, "bias": True, "rank": 7}}
        for kind in ("gelu", "relu2", "geglu", "double_silu")
    },
}
LEFT: dict[str, dict[str, Any]] = {
    "window": {"attention": {"heads": 2, "window": 6, "sinks": 2}},
    "thinking": {"thinking": {"kind": "deep", "passes": 2}},
    "alpha": {"residual": "alpha"},
    "post": {"norm": {"kind": "rmsnorm", "placement": "post"}},
    "dora": {"adapters": [{"kind": "lora", "r": 2, "dora": True}]},
    "lora of visits": {
        "sharing": {"kind": "cycle", "times": 2},
        "adapters": [{"kind": "lora", "r": 2, "per": "visit"}],
    },
    "ia3": {"adapters": [{"kind": "ia3"}]},
    "prefix": {"adapters": [{"kind": "prefix", "length": 2}]},
}


LEARNED = (
    *("bias", "gain", "attention.gate.weight", "value_residual.weight", "index.weight"),
    *("lora.b", "ia3.scale"),
)
"""Ends of names of what begins alike for every input."""


def decoder(**fields: Any) -> Decoder:
    sizes = {"vocab_size": 61, "context": 48, "dim": 32, "layers": 2, "init": {"std": 0.3}}
    model = build(ModelConfig.model_validate({**sizes, **fields}))
    assert isinstance(model, Decoder)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(LEARNED):
            parameter.data.normal_(generator=generator)
        elif name.startswith("skips."):  # streams that cancel would show each other's rounding
            parameter.data.normal_(0.7, 0.2, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith(("a_mask", "b_mask")):
            buffer.random_(generator=generator)
    return model.eval()


@torch.inference_mode()
def read(model: Decoder, engine: str, mask: Tensor | None = None) -> tuple[Tensor, bool]:
    """Return hidden states of ten tokens read one by one, and whether a step was used."""
    tokens = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(1))
    with kernels.engine("eager" if engine == "eager" else "compiled") as chosen:
        cache = model.new_cache(3, 14)
        rows = [model.hidden(tokens[:, :10], cache, None if mask is None else mask[:, :10])]
        for at in range(10, 20):
            if cache.length == cache.capacity:
                cache.resize(20)
            seen = None if mask is None else mask[:, : at + 1]
            rows.append(model.hidden(tokens[:, at : at + 1], cache, seen))
    used = chosen is not None and isinstance(chosen.steps.get(model), step.Step)
    return torch.cat(rows[1:], 1), used


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["dense", "int8", "int4"])
@pytest.mark.parametrize("name", WALKED)
def test_a_step_gives_what_torch_gives(name: str, kind: str, padded: bool) -> None:
    check(decoder(**WALKED[name], linears={"blocks": kind}), padded)


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_of_a_shared_layer_with_a_bottleneck_in_nf4(padded: bool) -> None:
    check(decoder(**WALKED["poster"], linears={"blocks": "nf4"}), padded)


def check(model: Decoder, padded: bool) -> None:
    """Compare a step with torch, of three rows, two of which may be padded."""
    mask = None
    if padded:
        mask = torch.ones(3, 20, dtype=torch.bool)
        mask[0, :4] = mask[1, :2] = False
    expected, _ = read(model, "eager", mask)
    found, used = read(model, "compiled", mask)
    assert used
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", LEFT)
def test_what_a_step_does_not_know_is_left_to_torch(name: str) -> None:
    model = decoder(**LEFT[name])
    expected, _ = read(model, "eager")
    found, used = read(model, "compiled")
    assert not used
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_index_before_its_loop_is_switched_on_is_left_to_torch() -> None:
    model = decoder(**WALKED["index of some"])
    model.loop(False)
    expected, _ = read(model, "eager")
    found, used = read(model, "compiled")
    assert not used
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_other_floats_and_hooks_and_chosen_attention_are_left_to_torch() -> None:
    assert not read(decoder().bfloat16(), "compiled")[1]
    with attention_kernel("math"):
        assert not read(decoder(), "compiled")[1]
    watched, seen = decoder(mlp={"kind": "gelu", "rank": 4}), []
    for name in ("blocks.0", "blocks.1.mlp.up.reduce"):
        hook = watched.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
        assert not read(watched, "compiled")[1]
        assert seen
        hook.remove()
        seen.clear()
    assert read(watched, "compiled")[1]


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    model = decoder(linears={"blocks": "int8_dynamic"})
    tokens = torch.randint(0, 61, (4, 12), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode(), kernels.engine("compiled"):
        every, alone = (_last(model, part) for part in (tokens, tokens[2:3]))
    assert torch.equal(every[2:3], alone)


def _last(model: Decoder, tokens: Tensor) -> Tensor:
    cache = model.new_cache(len(tokens), 12)
    start = torch.zeros(len(tokens), 1, dtype=torch.long)
    x = model.hidden(start, cache)
    for at in range(11):
        x = model.hidden(tokens[:, at : at + 1], cache)
    return x


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_it(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_ALONE", 1)
    model = decoder()
    expected, _ = read(model, "eager")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, _ = read(model, "compiled")
    finally:
        torch.set_num_threads(before)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
