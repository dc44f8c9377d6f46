"""Configs are read by what transformers reads: by its own class, and the same, or not at all, without it."""

import json

import hub_fixture
import pytest
import transformers
from hub_fixture import GPT2, LLAMA, LLAMA3

from flyweight.checkpoints import attributes, convert, read
from flyweight.checkpoints.families import FAMILIES
from flyweight.checkpoints.family import Inexpressible
from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError

LINEAR = {"rope_type": "linear", "factor": 4.0}
OLDER = {"type": "linear", "factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 7.0}
ALIASED = {
    "hidden_size": 36,
    "max_position_embeddings": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "vocab_size": 97,
}


def base(config: ModelConfig) -> float:
    return config.position.base


def factor(config: ModelConfig) -> float:
    return config.position.scaling.factor


# model_type, fields, what the config then says
READ = [
    ("llama", {"rope_theta": 500.0}, lambda c: base(c) == 500 and c.position.scaling is None),
    ("llama", {"rope_scaling": LINEAR}, lambda c: factor(c) == 4 and base(c) == 1e4),
    (
        "llama",
        {"rope_scaling": OLDER, "rope_theta": 5e3},
        lambda c: factor(c) == 4 and base(c) == 5e3,
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_scaling": LINEAR},
        lambda c: base(c) == 1e4,
    ),
    (
        "llama",
        {"rope_parameters": {**OLDER, "rope_theta": 5e5}},
        lambda c: factor(c) == 4 and base(c) == 5e5,
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}},
        lambda c: base(c) == 5e5,
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 9.0},
        lambda c: base(c) == 9,
    ),
    ("llama", {"rope_scaling": LLAMA3}, lambda c: c.position.scaling.original_context == 16),
    (
        "llama",
        {"rope_scaling": {k: v for k, v in LLAMA3.items() if not k.startswith("orig")}},
        lambda c: c.position.scaling.original_context == 64,
    ),
    ("llama", {"rope_scaling": None, "rope_parameters": None}, lambda c: base(c) == 1e4),
    (
        "llama",
        {"head_dim": None, "num_key_value_heads": None},
        lambda c: c.attention.head_dim * c.attention.kv_heads == 40,
    ),
    ("llama", {"temperature": 0.6, "do_sample": True, "top_p": 0.9}, lambda c: c.dim == 40),
    (
        "llama",
        {"unsloth_fixed": True, "torch_dtype": "bfloat16", "num_labels": 3},
        lambda c: c.dim == 40,
    ),
    ("qwen3", {"head_dim": 12}, lambda c: c.attention.head_dim == 12 and c.attention.qk_norm),
    ("qwen3", {"sliding_window": 4096, "max_window_layers": 1}, lambda c: c.layers == 3),
    ("qwen3", {"layer_types": ["full_attention"] * 3}, lambda c: c.layers == 3),
    ("gpt2", {}, lambda c: (c.dim, c.context, c.layers) == (36, 32, 3)),
    (
        "gpt2",
        {"hidden_size": 48, "num_attention_heads": 4},
        lambda c: (c.dim, c.attention.heads) == (48, 4),
    ),
    (
        "gpt2",
        {"n_ctx": 1024, "task_specific_params": {"x": 1}, "summary_type": "last"},
        lambda c: c.context == 32,
    ),
]
REFUSED = [
    ("llama", {"flavour": "sweet"}, "flavour is 'sweet'"),
    ("llama", {"text_config": {"vocab_size": 9}}, "text_config"),
    ("llama", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ("llama", {"sliding_window": 8}, "sliding_window is 8"),
    ("llama", {"partial_rotary_factor": 0.5}, "0.5 of each head"),
    (
        "llama",
        {"rope_parameters": {**LINEAR, "rope_theta": 1e4, "flavour": 1}},
        "rope_parameters.flavour",
    ),
    ("llama", {"rope_parameters": {**LINEAR, "rope_theta": "1e4"}}, "rope_theta"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
    ("llama", {"attention_bias": 1}, "attention_bias"),
    ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "sliding_attention"),
    ("qwen3", {"use_sliding_window": True}, "sliding window"),
    ("qwen3", {"head_dim": None}, "head_dim"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("gpt2", {"n_embd": None}, "n_embd"),
]


def raw(family: str, fields: dict) -> dict:
    plain = GPT2 if family == "gpt2" else LLAMA
    return {"model_type": family, **plain, **fields}


def with_transformers(family: str, fields: dict, place) -> ModelConfig:
    (place / "config.json").write_text(json.dumps(raw(family, fields)))
    return FAMILIES[family].config(attributes.resolved(place, raw(family, fields)))


@pytest.mark.parametrize(("family", "fields", "holds"), READ)
def test_a_config_is_what_transformers_reads_with_it_and_without(family, fields, holds, tmp_path):
    found = with_transformers(family, fields, tmp_path)
    assert holds(found)
    assert FAMILIES[family].config(attributes.strict(raw(family, fields))) == found


@pytest.mark.parametrize(("family", "fields", "why"), REFUSED)
def test_what_is_not_mapped_and_not_at_its_default_is_named(family, fields, why, tmp_path):
    with pytest.raises(RequestError, match=why):
        with_transformers(family, fields, tmp_path)
    with pytest.raises(Inexpressible, match=why):
        FAMILIES[family].config(attributes.strict(raw(family, fields)))


def test_gpt2s_second_names_alone_are_enough():
    fields = attributes.strict({"model_type": "gpt2", **ALIASED})
    assert FAMILIES["gpt2"].config(fields).resolved().context == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_the_strict_readers_defaults_are_transformers_own(family):
    theirs = vars(transformers.CONFIG_MAPPING[family]())
    strict = attributes.strict({"model_type": family}).values
    assert strict == {name: theirs[name] for name in strict}
    assert theirs.keys() - strict.keys() <= attributes.MEANINGLESS


def test_fields_of_generation_are_those_that_transformers_takes_out():
    assert attributes._GENERATION.issubset(
        transformers.GenerationConfig._get_default_generation_params()
    )


def test_without_transformers_a_checkpoint_is_read_all_the_same(tmp_path, monkeypatch):
    hub_fixture.save("llama-llama3", tmp_path)
    expected = convert.config_of(read.read(tmp_path))
    monkeypatch.setattr(attributes, "find_spec", lambda name: None)
    assert convert.config_of(read.read(tmp_path)) == expected
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "flavour": "sweet"}))
    with pytest.raises(
        Inexpressible,
        match="flavour is 'sweet', which is not read without the transformers library",
    ):
        convert.config_of(read.read(tmp_path))
