from __future__ import annotations

from typing import Any

import pytest
import torch

from flyweight.config.blocks import layers_named
from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.spec import flops
from flyweight.store.stage import identity_config

SHAPE: dict[str, Any] = {"vocab_size": 50, "context": 16, "dim": 64, "layers": 6}


def model(blocks: Any, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({**SHAPE, **fields, "blocks": blocks})


def test_a_key_is_a_layer_or_an_inclusive_range() -> None:
    assert list(layers_named("3")) == [3] and list(layers_named("2-5")) == [2, 3, 4, 5]
    for key in ("", "a", "-1", "1-", "02", "1-2-3", "1,2", "5-2", " 1", "٣"):
        with pytest.raises(ValueError):
            layers_named(key)


def test_what_is_not_named_stays_the_models() -> None:
    attention = {"heads": 8, "kv_heads": 4, "head_dim": 8, "gain": True}
    config = model(
        {"2-3": {"attention": {"heads": 2}}, 5: {"mlp": {"hidden": 96}}}, attention=attention
    )
    changed = config.layer(2).attention
    assert (changed.heads, changed.kv_heads, changed.head_dim, changed.gain) == (2, 1, 8, True)
    assert config.layer(3).attention == changed and config.layer(3).mlp.hidden == 192
    assert config.layer(5).mlp.hidden == 96
    assert config.layer(5).attention == config.resolved().attention
    assert config.layer(0) is config


def test_null_means_derived_and_another_kind_stands_for_itself() -> None:
    attention = {"heads": 4, "kv_heads": 2, "head_dim": 8, "bias": True, "out_bias": False}
    mlp = {"kind": "swiglu", "hidden": 40, "bias": True}
    config = model(
        {
            "0": {"attention": {"head_dim": None, "kv_heads": None}},
            "1": {"attention": {"bias": False}, "mlp": {"bias": False}},
            "2": {"mlp": "relu"},
            "3": {"attention": {"heads": None}},
        },
        attention=attention,
        mlp=mlp,
    )
    first = config.layer(0).attention
    assert (first.heads, first.kv_heads, first.head_dim) == (4, 4, 16)
    assert config.layer(1).attention.out_bias is False and config.layer(1).mlp.hidden == 40
    assert config.layer(2).mlp.model_dump() == {
        "kind": "relu", "hidden": 256, "bias": False, "rank": None
    }  # fmt: skip
    assert config.layer(3).attention.heads == 8


def test_resolving_and_writing_change_no_layer() -> None:
    blocks = {"0": {"attention": {"heads": 1, "kv_heads": None}}, "1-2": {"mlp": {"rank": None}}}
    for config in (
        model(blocks),
        model(blocks, mlp={"rank": 8}),
        model(blocks, attention={"heads": 4}),
    ):
        again = ModelConfig.model_validate(config.resolved().model_dump(mode="json"))
        assert again == config.resolved()
        assert again.model_dump()["blocks"] == blocks
        for index in range(6):
            assert again.layer(index).attention == config.resolved().layer(index).attention
            assert again.layer(index).attention == (
                config.layer(index).attention if index == 0 else again.attention
            )
            assert again.layer(index).mlp == config.resolved().layer(index).mlp


def test_left_out_of_what_is_written_and_part_of_the_identity() -> None:
    assert "blocks" not in model({}).model_dump()
    assert identity_config(model({})) == identity_config(ModelConfig.model_validate(SHAPE))
    assert identity_config(model({"0": {"mlp": "relu"}}))["blocks"] == {
        "0": {"mlp": {"kind": "relu"}}
    }
    given, left_out = model({"0": {"mlp": {"bias": False}}}), model({"0": {"mlp": {"rank": None}}})
    assert given != left_out


@pytest.mark.parametrize(
    ("blocks", "fields", "fault"),
    [
        ({"x": {"mlp": "relu"}}, {}, r"blocks\.x: 'x' is not a layer"),
        ({"6": {"mlp": "relu"}}, {}, r"blocks\.6: layer 6 is outside the model's 6 layers"),
        ({"3-2": {"mlp": "relu"}}, {}, r"blocks\.3-2: the range ends with layer 2"),
        ({"1": {}}, {}, r"blocks\.1: names no field"),
        ({"1-3": {"mlp": "relu"}, "2": {"mlp": "gelu"}}, {}, r"blocks\.2: layer 2 is named by 1-3"),
        ({"1": {"mlp": {"hidden": 0}}}, {}, r"blocks\.1\.mlp\.hidden"),
        ({"1": {"attention": {"head": 2}}}, {}, r"blocks\.1\.attention\.head"),
        ({"1": {"mlp": {"kind": "relu", "approximate": "tanh"}}}, {}, r"blocks\.1\.mlp\.approximate"),
        ({"1": {"mlp": {"rank": 5000}}}, {}, r"blocks\.1\.mlp\.rank: 5000 is larger"),
        ({"1": {"attention": {"heads": 3, "kv_heads": 2}}}, {}, r"blocks\.1\.attention\.kv_heads"),
        ({"1": {"attention": {"head_dim": 7}}}, {}, r"blocks\.1\.attention\.head_dim: .*head_dim 7"),
        ({"1": {"mlp": "relu"}}, {"sharing": "cycle"}, r"blocks\.1: layer 1 is shared \(sharing: cycle"),
        ({"1-2": {"mlp": "relu"}}, {"sharing": {"kind": "span", "span": (2, 3)}}, "layer 2 is shared"),
        (
            {"1": {"attention": {"kv_heads": 1}}},
            {"thinking": {"memory": "first"}},
            r"blocks\.1\.attention: its keys have another shape",
        ),
    ],
)  # fmt: skip
def test_every_fault_names_the_key(blocks: Any, fields: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        model(blocks, **fields)


def test_layers_outside_a_loop_may_differ() -> None:
    config = model({"1": {"mlp": "relu"}}, sharing={"kind": "span", "span": (2, 3)})
    assert config.layer(1).mlp.kind == "relu" and config.layer(2).mlp.kind == "swiglu"


def test_the_cache_has_the_size_of_each_layer() -> None:
    config = model({"0-2": {"attention": {"heads": 1, "kv_heads": 1, "head_dim": 8}}}).resolved()
    cache = Decoder(config).new_cache(1, 4)
    assert cache.nbytes() == 4 * flops.kv_bytes_per_token(config, 4)
    assert flops.kv_bytes_per_token(config, 4) == 2 * 4 * (3 * 8 + 3 * 64)
    tokens = torch.arange(4)[None]
    assert Decoder(config)(tokens).shape == (1, 4, 50)
