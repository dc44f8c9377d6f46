"""What GPT-2, Llama and Qwen3 checkpoints are in our terms, and which of our models they can hold.

No torch.

A family reads the attributes of a Hugging Face `config.json` into a `ModelConfig`, writes one from
it, and names its tensors. What our decoder would compute differently is refused, and so is every
attribute that is not read here and not at its default: with every reason at once. Sources:
transformers' configurations and modelling code of the three families.
"""

from __future__ import annotations

from flyweight.checkpoints import gpt2, rotary
from flyweight.checkpoints.beyond import DROPOUTS, FRESH_WEIGHTS
from flyweight.checkpoints.family import Family, Inexpressible
from flyweight.config import schema


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
        read=gpt2.read,
        write=gpt2.write,
        parts=gpt2.parts,
        dropouts=("embedding", "attention", "residual"),
        claims=_COMMON_CLAIMS | {"norm.bias", "mlp.approximate"},
    ),
    "llama": Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        prefix="model.",
        read=rotary.read_llama,
        write=rotary.write_llama,
        parts=rotary.parts,
        dropouts=("attention",),
        claims=_ROTARY_CLAIMS,
    ),
    "qwen3": Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        prefix="model.",
        read=rotary.read_qwen3,
        write=rotary.write_qwen3,
        parts=rotary.parts,
        dropouts=("attention",),
        claims=_ROTARY_CLAIMS | {"attention.qk_norm_eps"},
    ),
}
