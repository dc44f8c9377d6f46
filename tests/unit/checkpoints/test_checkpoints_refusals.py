import json
import time

import hub_fixture
import pytest

from flyweight.checkpoints import read, refusals
from flyweight.errors import RequestError

LLAMA = {"model_type": "llama", **hub_fixture.LLAMA}


def said(place, raw) -> str:
    with pytest.raises(RequestError) as caught:
        refusals.refuse(place, raw)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        10**9,
        2**31,
        10**30,
        -1,
        -(2**70),
        3.0,
        3.5,
        float("nan"),
        float("inf"),
        "3",
        True,
        {"a": 1},
        [2, "3"],
    ],
)
@pytest.mark.parametrize(
    "field",
    [
        "num_hidden_layers",
        "n_layer",
        "num_key_value_heads",
        "hidden_size",
        "vocab_size",
        "n_positions",
    ],
)
def test_a_size_that_is_no_size_is_refused_by_name(field, value, tmp_path):
    if value == 10**9 and "layer" not in field:
        value *= 10
    assert f"{field} is {value!r:.80}" in said(tmp_path, {**LLAMA, field: value})
    assert f"text_config.{field} is" in said(
        tmp_path, {"model_type": "x", "text_config": {field: value}}
    )


def test_a_size_may_be_open_or_differ_by_layer(tmp_path):
    refusals.refuse(
        tmp_path,
        {
            **LLAMA,
            "n_inner": None,
            "head_dim": None,
            "num_key_value_heads": [2, 4],
            "num_experts": 0,
        },
    )
    refusals.refuse(
        tmp_path,
        {
            **LLAMA,
            "label2id": {"dim": -1},
            "rope_theta": 3_580_165_449,
            "time_step_limit": [0.0, float("inf")],
        },
    )


@pytest.mark.parametrize("value", [float("nan"), {"__float__": "NaN"}, [1.0, float("nan")]])
def test_numbers_that_are_none_are_refused(value, tmp_path):
    assert "rms_norm_eps is not a number" in said(tmp_path, {**LLAMA, "rms_norm_eps": value})
    assert "rope_parameters.factor is not a number" in said(
        tmp_path, {**LLAMA, "rope_parameters": {"factor": value}}
    )


def test_a_billion_layers_are_refused_at_once(tmp_path):
    hub_fixture.save("qwen3", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {**json.loads(path.read_text()), "num_hidden_layers": 10**9, "layer_types": None}
        )
    )
    began = time.monotonic()
    with pytest.raises(
        RequestError, match="num_hidden_layers is 1000000000, not a whole number from 0 to 10,000"
    ):
        read.read(tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "fields",
    [
        {"is_causal": False},
        {"is_causal": None},
        {"is_causal": 0},
        {"text_config": {"is_causal": False}},
        {"use_bidirectional_attention": True},
        {"use_bidirectional_attention": "all"},
        {"causal": False},
        {"attn_type": "bi"},
        {"architectures": ["BertForMaskedLM"]},
    ],
)
def test_what_reads_in_both_directions_is_refused(fields, tmp_path):
    assert "in both directions" in said(tmp_path, {**LLAMA, **fields})


def test_what_reads_from_left_to_right_is_not(tmp_path):
    one_way = {"is_causal": True, "use_bidirectional_attention": "vision", "attn_type": "uni"}
    refusals.refuse(tmp_path, {**LLAMA, **one_way, "vision_config": {"is_causal": False}})


@pytest.mark.parametrize(
    "method", ["gptq", "awq", "bitnet", "compressed-tensors", "fp8", "mxfp4", "bitsandbytes"]
)
@pytest.mark.parametrize("field", ["quantization_config", "compression_config"])
def test_quantized_weights_are_refused_with_their_format(field, method, tmp_path):
    assert f"quantized ('{method}')" in said(tmp_path, {**LLAMA, field: {"quant_method": method}})
    assert f"text_config.{field}" in said(
        tmp_path, {"model_type": "x", "text_config": {field: {"quant_method": method}}}
    )
    refusals.refuse(tmp_path, {**LLAMA, field: None})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dtype": "float8_e4m3fn"}, "dtype is 'float8_e4m3fn'"),
        ({"torch_dtype": "int8"}, "torch_dtype is 'int8'"),
        ({"transformers_weights": "other.safetensors"}, "does not follow"),
        ({"fusion_config": {}}, "does not follow"),
        ({"attn_implementation": "owner/kernel"}, "does not fetch"),
        ({"_attn_implementation": {"": "owner/kernel"}}, "does not fetch"),
    ],
)
def test_what_is_read_elsewhere_or_otherwise_is_refused(fields, why, tmp_path):
    assert why in said(tmp_path, {**LLAMA, **fields})


def test_a_config_that_is_deep_is_looked_at_to_the_bottom(tmp_path):
    deep: dict = {"is_causal": False, "hidden_size": -1}
    for _ in range(3000):
        deep = {"a": deep}
    assert "hidden_size is -1" in said(tmp_path, {**LLAMA, "deep": deep})


@pytest.mark.parametrize("field", ["transformers_weights", "fusion_config", "configuration_files"])
def test_other_files_that_transformers_would_read_are_refused(field, tmp_path):
    assert f"{field} is ['other.json'], which flyweight does not follow" in said(
        tmp_path, {**LLAMA, field: ["other.json"]}
    )
