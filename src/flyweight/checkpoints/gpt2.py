"""GPT-2 checkpoints in our terms, and ours in theirs.

No torch. Source: transformers' configuration and modelling code of the family.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from flyweight.checkpoints.attributes import Fields
from flyweight.checkpoints.family import Part, need
from flyweight.config import schema

_GELUS: dict[str, Literal["none", "tanh"]] = {
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu": "none",
    "gelu_python": "none",
}


def read(fields: Fields) -> dict[str, object]:
    """Return the fields of a `ModelConfig`, and note what our decoder cannot do."""
    reasons, act = fields.reasons, fields.word("activation_function")
    need(reasons, act in _GELUS, f"activation_function is {act}; known are {', '.join(_GELUS)}")
    need(reasons, fields.flag("scale_attn_weights"), "scale_attn_weights is off")
    need(
        reasons,
        not fields.flag("scale_attn_by_inverse_layer_idx"),
        "scale_attn_by_inverse_layer_idx is on",
    )
    need(reasons, not fields.flag("add_cross_attention"), "add_cross_attention is on")
    return {
        "vocab_size": fields.size("vocab_size"),
        "context": fields.size("n_positions"),
        "dim": fields.size("n_embd"),
        "layers": fields.size("n_layer"),
        "attention": {"heads": fields.size("n_head"), "bias": True},
        "position": "learned",
        "mlp": {
            "kind": "gelu",
            "approximate": _GELUS.get(act, "tanh"),
            "hidden": fields.size_or_none("n_inner"),
            "bias": True,
        },
        "norm": {"kind": "layernorm", "eps": fields.number("layer_norm_epsilon")},
        "embedding": {"tied": fields.flag("tie_word_embeddings")},
        "dropout": {
            "embedding": fields.number("embd_pdrop"),
            "attention": fields.number("attn_pdrop"),
            "residual": fields.number("resid_pdrop"),
        },
        "init": {"std": fields.number("initializer_range")},
    }


def write(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    """Return the attributes of a `config.json`, and note what GPT-2 has no words for."""
    attention, norm, mlp = config.attention, config.norm, config.mlp
    assert attention.heads and attention.head_dim
    need(
        reasons,
        config.position.kind == "learned",
        f"its positions are {config.position.kind}, GPT-2's are learned (model.position=learned)",
    )
    need(
        reasons,
        isinstance(norm, schema.LayerNorm) and norm.bias,
        "its norm is not LayerNorm with a bias (model.norm=layernorm)",
    )
    need(
        reasons,
        isinstance(mlp, schema.Gelu) and mlp.bias,
        f"its MLP is {mlp.kind}; GPT-2's is gelu with biases (model.mlp=gelu model.mlp.bias=true)",
    )
    need(
        reasons,
        attention.bias and attention.out_bias is True,
        "its attention has no biases (model.attention.bias=true)",
    )
    need(
        reasons,
        attention.kv_heads == attention.heads,
        "it has fewer key/value heads than heads (model.attention.kv_heads=null)",
    )
    need(
        reasons,
        attention.heads * attention.head_dim == config.dim,
        "heads times head_dim is not dim (model.attention.head_dim=null)",
    )
    need(reasons, not attention.qk_norm, "it has q/k norms (model.attention.qk_norm=false)")
    act = "gelu_new" if isinstance(mlp, schema.Gelu) and mlp.approximate == "tanh" else "gelu"
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.dim,
        "n_layer": config.layers,
        "n_head": attention.heads,
        "n_inner": mlp.hidden,
        "activation_function": act,
        "layer_norm_epsilon": config.norm.eps,
        "tie_word_embeddings": config.embedding.tied,
        "embd_pdrop": config.dropout.embedding,
        "attn_pdrop": config.dropout.attention,
        "resid_pdrop": config.dropout.residual,
        "initializer_range": config.init.std,
        "scale_attn_weights": True,
        "use_cache": True,
    }


def parts(config: schema.ModelConfig) -> Iterator[Part]:
    """Yield where each of our tensors stands in a checkpoint."""
    yield Part(("embedding.tokens.weight",), "transformer.wte.weight")
    yield Part(("embedding.positions.weight",), "transformer.wpe.weight")
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for kind in ("weight", "bias"):
            matrix = kind == "weight"
            yield Part((f"{ours}.attention_norm.{kind}",), f"{theirs}.ln_1.{kind}")
            yield Part(
                tuple(f"{ours}.attention.{name}.{kind}" for name in "qkv"),
                f"{theirs}.attn.c_attn.{kind}",
                matrix,
            )
            yield Part((f"{ours}.attention.out.{kind}",), f"{theirs}.attn.c_proj.{kind}", matrix)
            yield Part((f"{ours}.mlp_norm.{kind}",), f"{theirs}.ln_2.{kind}")
            yield Part((f"{ours}.mlp.up.{kind}",), f"{theirs}.mlp.c_fc.{kind}", matrix)
            yield Part((f"{ours}.mlp.down.{kind}",), f"{theirs}.mlp.c_proj.{kind}", matrix)
    for kind in ("weight", "bias"):
        yield Part((f"norm.{kind}",), f"transformer.ln_f.{kind}")
    if not config.embedding.tied:
        yield Part(("head.linear.weight",), "lm_head.weight")
