"""Which of llama.cpp's models ours is once its layers are written out, and why it is none."""

from __future__ import annotations

from flyweight.checkpoints.beyond import beyond, changed_fields
from flyweight.checkpoints.families import FAMILIES
from flyweight.checkpoints.family import Family, Inexpressible
from flyweight.config import schema
from flyweight.config.linear_kinds import LinearKind
from flyweight.formats import gguf_codes
from flyweight.spec.visits import visits

_WRITTEN_OUT = frozenset(
    {"sharing.kind", "sharing.times", "sharing.span", "sharing.loop_from", "sharing.index"}
)
"""Fields of sharing that show in the layers that are written; an index is refused by itself."""


def written_out(config: schema.ModelConfig) -> tuple[schema.ModelConfig, Family, list[str]]:
    """Return the config with its layers written out, the nearest family, and its faults.

    A fault is a reason why the model does not fit that family.
    """
    attention, norm, mlp = config.attention, config.norm, config.mlp
    learned = isinstance(config.position, schema.Learned)
    bias = learned or attention.bias or bool(attention.out_bias)
    plain = config.model_copy(
        update={
            "layers": len(visits(config)),
            "sharing": schema.NoSharing(),
            "linears": {},
            "dropout": schema.Dropout(),
            "attention": attention.model_copy(update={"bias": bias, "out_bias": bias}),
            "norm": norm.model_copy(update={"bias": True})
            if isinstance(norm, schema.LayerNorm)
            else norm,
            "mlp": mlp.model_copy(update={"bias": learned or mlp.bias}),
        }
    )
    family = FAMILIES[_nearest(config)]
    reasons = []
    lossy = (kind for kind in config.linears.values() if not _writable(kind))
    if packed := sorted({kind.label for kind in lossy}):
        reasons.append(
            f"it is quantized ({', '.join(packed)}), in codes that GGUF does not have (it has "
            f"int8, and int4 in groups of {gguf_codes.BLOCK}): export the dense model that it was "
            "made from, with --type q8_0 or q4_0"
        )
    reasons += _lost_sharing(config)
    try:
        family.raw(plain)
    except Inexpressible as error:
        reasons += error.reasons
    if not config.layers:
        reasons.append("it has no layers (model.layers=1 or more)")
    if not isinstance(config.sharing, schema.NoSharing) and config.sharing.index:
        reasons.append(
            "its shared layers have an index embedding for each of their uses "
            "(model.sharing.index=false)"
        )
    if learned and isinstance(mlp, schema.Gelu) and mlp.approximate == "none":
        reasons.append(
            "its GELU is the exact one; llama.cpp computes the tanh approximation (mlp: {kind: "
            "gelu, approximate: tanh})"
        )
    if family.model_type == "qwen3":
        if bias:
            reasons.append(
                "its attention has biases beside q/k norms; llama.cpp's qwen3 does not read all "
                "of them"
                " (model.attention.bias=false)"
            )
        if (
            isinstance(config.position, schema.Rope)
            and config.position.scaling
            and config.position.scaling.kind == "llama3"
        ):
            reasons.append(
                "its rotary scaling is llama3 beside q/k norms; llama.cpp's qwen3 has no factors "
                "per frequency"
            )
    return plain, family, reasons


def _nearest(config: schema.ModelConfig) -> str:
    """Return the name of the family that the config resembles most."""
    if isinstance(config.position, schema.Learned):
        return "gpt2"
    return "qwen3" if config.attention.qk_norm else "llama"


def _writable(kind: LinearKind) -> bool:
    return kind.plain or kind.lossless or bool(gguf_codes.type_of(kind))


def _lost_sharing(config: schema.ModelConfig) -> list[str]:
    """Return what is lost when shared layers are written out one by one."""
    claims = {path for path, _ in changed_fields(config) if not path.startswith("sharing.")}
    return beyond(config, claims | _WRITTEN_OUT)
