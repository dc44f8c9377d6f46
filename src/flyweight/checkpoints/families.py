"""What GPT-2, Llama and Qwen3 checkpoints are in our terms, and which of our models they can hold.

No torch.

A family reads the attributes of a Hugging Face `config.json` into a `ModelConfig`, writes one from
it, and names its tensors. What our decoder would compute differently is refused, and so is every
attribute that is not read here and not at its default: with every reason at once. Sources:
transformers' configurations and modelling code of the three families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from flyweight.checkpoints.attributes import Fields
from flyweight.checkpoints.beyond import DROPOUTS, FRESH_WEIGHTS, beyond
from flyweight.config import schema
from flyweight.errors import RequestError
from flyweight.spec.linears import mlp_linears


class Inexpressible(RequestError):
    """A model that one side has no words for; the message has every reason."""

    def __init__(self, what: str, reasons: list[str]) -> None:
        super().__init__(f"{what}: {'; '.join(reasons)}")
        self.reasons = reasons


@dataclass(frozen=True)
class Part:
    """Where our tensors stand in a checkpoint: several are stacked along the output.

    `transposed` is for GPT-2's matrices, which are stored (in, out).
    """

    ours: tuple[str, ...]
    theirs: str
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint; `dropouts` are the rates of ours that its config has words for.

    `claims` are the fields of ours that `write` writes or refuses. Any other that is not at its
    default is refused.
    """

    model_type: str
    architecture: str
    prefix: str
    read: Callable[[Fields], dict[str, Any]]
    write: Callable[[schema.ModelConfig, list[str]], dict[str, Any]]
    parts: Callable[[schema.ModelConfig], Iterator[Part]]
    dropouts: tuple[str, ...]
    claims: frozenset[str]

    def lost_dropout(self, config: schema.ModelConfig) -> dict[str, float]:
        """Return the rates that this family's config cannot say; they act in training alone."""
        rates: dict[str, float] = config.dropout.model_dump()
        return {name: rate for name, rate in rates.items() if rate and name not in self.dropouts}

    def config(self, fields: Fields) -> schema.ModelConfig:
        """Return the model that a config's attributes describe.

        Raises Inexpressible with every reason why there is none.
        """
        model = self.read(fields)
        reasons = [*fields.reasons, *fields.left()]
        if not reasons:
            try:
                return schema.ModelConfig.model_validate(model).resolved()
            except ValueError as error:
                reasons.append(" ".join(str(error).split()))
        raise Inexpressible(
            f"this {self.model_type} model is not one that flyweight's decoder computes", reasons
        )

    def raw(self, config: schema.ModelConfig) -> dict[str, Any]:
        """Return the `config.json` of a resolved config.

        Raises Inexpressible with every reason why there is none.
        """
        reasons = beyond(config, self.claims)
        attributes = self.write(config, reasons)
        if reasons:
            raise Inexpressible(f"not a {self.model_type} model", reasons)
        return {"model_type": self.model_type, "architectures": [self.architecture], **attributes}


def family_of(config: schema.ModelConfig) -> tuple[Family, dict[str, object]]:
    """Return the first family that holds this model, with its `config.json`.

    Raises Inexpressible with all reasons.
    """
    reasons: list[str] = []
    for family in FAMILIES.values():
        try:
            return family, family.raw(config.resolved())
        except Inexpressible as error:
            reasons.append(str(error))
    raise Inexpressible("no native Hugging Face family holds this model", reasons)


def _need(reasons: list[str], holds: bool, why: str) -> None:
    if not holds:
        reasons.append(why)


# --- GPT-2 ---

_GELUS: dict[str, Literal["none", "tanh"]] = {
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu": "none",
    "gelu_python": "none",
}


def _read_gpt2(fields: Fields) -> dict[str, object]:
    reasons, act = fields.reasons, fields.word("activation_function")
    _need(reasons, act in _GELUS, f"activation_function is {act}; known are {', '.join(_GELUS)}")
    _need(reasons, fields.flag("scale_attn_weights"), "scale_attn_weights is off")
    _need(
        reasons,
        not fields.flag("scale_attn_by_inverse_layer_idx"),
        "scale_attn_by_inverse_layer_idx is on",
    )
    _need(reasons, not fields.flag("add_cross_attention"), "add_cross_attention is on")
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


def _write_gpt2(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    attention, norm, mlp = config.attention, config.norm, config.mlp
    assert attention.heads and attention.head_dim
    _need(
        reasons,
        config.position.kind == "learned",
        f"its positions are {config.position.kind}, GPT-2's are learned (model.position=learned)",
    )
    _need(
        reasons,
        isinstance(norm, schema.LayerNorm) and norm.bias,
        "its norm is not LayerNorm with a bias (model.norm=layernorm)",
    )
    _need(
        reasons,
        isinstance(mlp, schema.Gelu) and mlp.bias,
        f"its MLP is {mlp.kind}; GPT-2's is gelu with biases (model.mlp=gelu model.mlp.bias=true)",
    )
    _need(
        reasons,
        attention.bias and attention.out_bias is True,
        "its attention has no biases (model.attention.bias=true)",
    )
    _need(
        reasons,
        attention.kv_heads == attention.heads,
        "it has fewer key/value heads than heads (model.attention.kv_heads=null)",
    )
    _need(
        reasons,
        attention.heads * attention.head_dim == config.dim,
        "heads times head_dim is not dim (model.attention.head_dim=null)",
    )
    _need(reasons, not attention.qk_norm, "it has q/k norms (model.attention.qk_norm=false)")
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


def _parts_gpt2(config: schema.ModelConfig) -> Iterator[Part]:
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


# --- Llama and Qwen3 ---


def _read_llama(fields: Fields) -> dict[str, object]:
    return _read_rotary(fields, mlp_bias=fields.flag("mlp_bias"))


def _read_qwen3(fields: Fields) -> dict[str, Any]:
    _need(
        fields.reasons,
        not fields.flag("use_sliding_window"),
        "it uses a sliding window (use_sliding_window)",
    )
    fields.size_or_none("max_window_layers")  # means something with a sliding window alone
    others = sorted(set(fields.words("layer_types")) - {"full_attention"})
    _need(fields.reasons, not others, f"layers are {', '.join(others)}")
    model = _read_rotary(fields, mlp_bias=False)
    qk = {"qk_norm": True, "qk_norm_eps": model["norm"]["eps"]}
    return {**model, "attention": {**model["attention"], **qk}}


def _read_rotary(fields: Fields, mlp_bias: bool) -> dict[str, Any]:
    act = fields.word("hidden_act")
    _need(fields.reasons, act in ("silu", "swish"), f"hidden_act is {act}, not silu")
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
        _need(rope.reasons, fraction == 1, f"only {fraction} of each head is rotated")
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
        _need(
            rope.reasons,
            kind == "default",
            f"its rotary scaling is {kind}; known are linear and llama3",
        )
    if kind in ("default", "linear", "llama3"):
        rope.reasons += rope.left()
    return position


def _write_llama(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    _need(
        reasons,
        not config.attention.qk_norm,
        "it has q/k norms, Llama has none (model.attention.qk_norm=false)",
    )
    return {**_write_rotary(config, reasons), "mlp_bias": config.mlp.bias, "pretraining_tp": 1}


def _write_qwen3(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    attention = config.attention
    _need(
        reasons,
        attention.qk_norm,
        "it has no q/k norms, Qwen3 has them (model.attention.qk_norm=true)",
    )
    _need(
        reasons,
        attention.qk_norm_eps == config.norm.eps,
        "q/k norms and block norms differ in eps (model.attention.qk_norm_eps)",
    )
    _need(reasons, not config.mlp.bias, "its MLP has biases (model.mlp.bias=false)")
    return {
        **_write_rotary(config, reasons),
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * config.layers,
    }


def _write_rotary(config: schema.ModelConfig, reasons: list[str]) -> dict[str, object]:
    attention = config.attention
    _need(
        reasons,
        config.position.kind == "rope",
        f"its positions are {config.position.kind}, not rotary (model.position=rope)",
    )
    _need(
        reasons,
        config.norm.kind == "rmsnorm",
        f"its norm is {config.norm.kind}, not rmsnorm (model.norm=rmsnorm)",
    )
    _need(
        reasons,
        config.mlp.kind == "swiglu",
        f"its MLP is {config.mlp.kind}, not swiglu (model.mlp=swiglu)",
    )
    _need(
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
    _need(
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


def _parts_rotary(config: schema.ModelConfig) -> Iterator[Part]:
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


_COMMON_CLAIMS = (
    FRESH_WEIGHTS
    | DROPOUTS
    | {
        "vocab_size",
        "context",
        "dim",
        "layers",
        "attention.heads",
        "attention.kv_heads",
        "attention.head_dim",
        "attention.bias",
        "attention.out_bias",
        "attention.qk_norm",
        "position.kind",
        "mlp.kind",
        "mlp.hidden",
        "mlp.bias",
        "norm.kind",
        "norm.eps",
        "embedding.tied",
    }
)
_ROTARY_CLAIMS = _COMMON_CLAIMS | {
    "position.base",
    "position.fraction",
    "position.scaling.kind",
    "position.scaling.factor",
    "position.scaling.low_frequency_factor",
    "position.scaling.high_frequency_factor",
    "position.scaling.original_context",
}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        prefix="transformer.",
        read=_read_gpt2,
        write=_write_gpt2,
        parts=_parts_gpt2,
        dropouts=("embedding", "attention", "residual"),
        claims=_COMMON_CLAIMS | {"norm.bias", "mlp.approximate"},
    ),
    "llama": Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        prefix="model.",
        read=_read_llama,
        write=_write_llama,
        parts=_parts_rotary,
        dropouts=("attention",),
        claims=_ROTARY_CLAIMS,
    ),
    "qwen3": Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        prefix="model.",
        read=_read_qwen3,
        write=_write_qwen3,
        parts=_parts_rotary,
        dropouts=("attention",),
        claims=_ROTARY_CLAIMS | {"attention.qk_norm_eps"},
    ),
}
