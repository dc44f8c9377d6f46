"""Llama and Qwen3 checkpoints in our terms, and ours in theirs: rotary positions, SwiGLU, RMSNorm.

No torch. Sources: transformers' configurations and modelling code of the two families.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flyweight.checkpoints.attributes import Fields
from flyweight.checkpoints.family import Part, need
from flyweight.config import schema
from flyweight.spec.linears import mlp_linears


def read_llama(fields: Fields) -> dict[str, object]:
    """Return a Llama's fields of a `ModelConfig`, and note what our decoder cannot do."""
    return _read_common(fields, mlp_bias=fields.flag("mlp_bias"))


def read_qwen3(fields: Fields) -> dict[str, Any]:
    """Return a Qwen3's fields of a `ModelConfig`, and note what our decoder cannot do."""
    need(
        fields.reasons,
        not fields.flag("use_sliding_window"),
        "it uses a sliding window (use_sliding_window)",
    )
    fields.size_or_none("max_window_layers")  # means something with a sliding window alone
    others = sorted(set(fields.words("layer_types")) - {"full_attention"})
    need(fields.reasons, not others, f"layers are {', '.join(others)}")
    model = _read_common(fields, mlp_bias=False)
    qk = {"qk_norm": True, "qk_norm_eps": model["norm"]["eps"]}
    return {**model, "attention": {**model["attention"], **qk}}


def _read_common(fields: Fields, mlp_bias: bool) -> dict[str, Any]:
    act = fields.word("hidden_act")
    need(fields.reasons, act in ("silu", "swish"), f"hidden_act is {act}, not silu")
    return {
        "vocab_size": fields.size("vocab_size"),
        "context": fields.size("max_position_embeddings"),
        "dim": fields.size("hidden_size"),
        "layers": fields.size("num_hidden_layers"),
        "attention": {
            "heads": fields.size("num_attention_heads"),
            "kv_heads": fields.size("num_key_value_heads"),
            "head_dim": fields.size("head_dim"),
            "bias": fields.flag("attention_bias"),
        },
        "position": _read_rope(fields.fields("rope_parameters")),
        "mlp": {"kind": "swiglu", "hidden": fields.size("intermediate_size"), "bias": mlp_bias},
        "norm": {"kind": "rmsnorm", "eps": fields.number("rms_norm_eps")},
        "embedding": {"tied": fields.flag("tie_word_embeddings")},
        "dropout": {"attention": fields.number("attention_dropout")},
        "init": {"std": fields.number("initializer_range")},
    }


def _read_rope(rope: Fields) -> dict[str, object]:
    """Read resolved rotary parameters.

    `type` beside `rope_type` is an older name, which is not looked at any more.
    """
    kind, position = (
        rope.word("rope_type"),
        dict[str, Any](kind="rope", base=rope.number("rope_theta")),
    )
    if rope.has("type"):
        rope.word("type")
    if rope.has("partial_rotary_factor"):
        fraction = rope.number("partial_rotary_factor")
        need(rope.reasons, fraction == 1, f"only {fraction} of each head is rotated")
    if kind == "linear":
        position["scaling"] = {"kind": "linear", "factor": rope.number("factor")}
    elif kind == "llama3":
        position["scaling"] = {
            "kind": "llama3",
            "factor": rope.number("factor"),
            "low_frequency_factor": rope.number("low_freq_factor"),
            "high_frequency_factor": rope.number("high_freq_factor"),
            "original_context": rope.size("original_max_position_embeddings"),
        }
    else:
        need(
            rope.reasons,
            kind == "default",
            f"its rotary scaling is {kind}; known are linear and llama3",
        )
    if kind in ("default", "linear", "llama3"):
        rope.reasons += rope.left()
    return position


def write_llama(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    """Return the attributes of a `config.json`, and note what Llama has no words for."""
    need(
        reasons,
        not config.attention.qk_norm,
        "it has q/k norms, Llama has none (model.attention.qk_norm=false)",
    )
    return {**_write_common(config, reasons), "mlp_bias": config.mlp.bias, "pretraining_tp": 1}


def write_qwen3(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    """Return the attributes of a `config.json`, and note what Qwen3 has no words for."""
    attention = config.attention
    need(
        reasons,
        attention.qk_norm,
        "it has no q/k norms, Qwen3 has them (model.attention.qk_norm=true)",
    )
    need(
        reasons,
        attention.qk_norm_eps == config.norm.eps,
        "q/k norms and block norms differ in eps (model.attention.qk_norm_eps)",
    )
    need(reasons, not config.mlp.bias, "its MLP has biases (model.mlp.bias=false)")
    return {
        **_write_common(config, reasons),
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * config.layers,
    }


def _write_common(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    attention = config.attention
    need(
        reasons,
        config.position.kind == "rope",
        f"its positions are {config.position.kind}, not rotary (model.position=rope)",
    )
    need(
        reasons,
        config.norm.kind == "rmsnorm",
        f"its norm is {config.norm.kind}, not rmsnorm (model.norm=rmsnorm)",
    )
    need(
        reasons,
        config.mlp.kind == "swiglu",
        f"its MLP is {config.mlp.kind}, not swiglu (model.mlp=swiglu)",
    )
    need(
        reasons,
        attention.bias == attention.out_bias,
        "only some of its attention matrices have biases (model.attention.out_bias=null)",
    )
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "intermediate_size": config.mlp.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm.eps,
        "attention_bias": attention.bias,
        "attention_dropout": config.dropout.attention,
        "tie_word_embeddings": config.embedding.tied,
        "initializer_range": config.init.std,
        "use_cache": True,
        **_write_rope(config, reasons),
    }


def _write_rope(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    """Return the rotary fields, under the names of transformers 5 and of earlier versions."""
    if not isinstance(config.position, schema.Rope):
        return {}
    position, scaling = config.position, config.position.scaling
    need(
        reasons,
        position.fraction == 1,
        f"only {position.fraction} of each head is rotated (model.position.fraction=1)",
    )
    base, options = position.base, {}
    if scaling is not None and scaling.kind == "ntk":
        assert config.attention.head_dim
        if config.attention.head_dim > 2:
            base *= scaling.factor ** (config.attention.head_dim / (config.attention.head_dim - 2))
    elif scaling is not None and scaling.kind == "linear":
        options = {"rope_type": "linear", "factor": scaling.factor}
    elif scaling is not None:
        options = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    attributes: dict[str, Any] = {
        "rope_parameters": {"rope_type": "default", **options, "rope_theta": base},
        "rope_theta": base,
    }
    return {**attributes, "rope_scaling": options} if options else attributes


def parts(config: schema.ModelConfig) -> Iterator[Part]:
    """Yield where each of our tensors stands in a checkpoint."""
    yield Part(("embedding.tokens.weight",), "model.embed_tokens.weight")
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield Part((f"{ours}.attention_norm.weight",), f"{theirs}.input_layernorm.weight")
        for name, their in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj")):
            for kind in ("weight", "bias")[: 1 + config.attention.bias]:
                yield Part(
                    (f"{ours}.attention.{name}.{kind}",), f"{theirs}.self_attn.{their}.{kind}"
                )
        for name in ("q", "k") if config.attention.qk_norm else ():
            yield Part(
                (f"{ours}.attention.{name}_norm.weight",), f"{theirs}.self_attn.{name}_norm.weight"
            )
        yield Part((f"{ours}.mlp_norm.weight",), f"{theirs}.post_attention_layernorm.weight")
        for name in mlp_linears(config):
            for kind in ("weight", "bias")[: 1 + config.mlp.bias]:
                yield Part((f"{ours}.mlp.{name}.{kind}",), f"{theirs}.mlp.{name}_proj.{kind}")
    yield Part(("norm.weight",), "model.norm.weight")
    if not config.embedding.tied:
        yield Part(("head.linear.weight",), "lm_head.weight")
