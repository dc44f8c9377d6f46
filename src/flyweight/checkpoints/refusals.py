"""Refuse what the config.json of no family may say; no torch.

transformers tries to build what a config says: a billion layers, packed matrices, kernels of
another repository. Such a config is refused here, before anything is built, with every reason by
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flyweight.errors import RequestError

MOST_LAYERS = 10_000
MOST = 2**31 - 1
"""Larger than any size of a model; sums of a few such sizes do not overflow."""

_LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
)
_SIZES = (
    "vocab_size",
    "hidden_size",
    "n_embd",
    "d_model",
    "dim",
    "embed_dim",
    "embedding_size",
    "hidden_dim",
    "n_head",
    "n_heads",
    "attention_heads",
    "head_dim",
    "ffn_dim",
    "d_ff",
    "ffn_hidden_size",
    "word_embed_proj_dim",
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
"""Fields that count something of which there is at least one."""

_COUNTS = (
    "num_attention_heads",
    "num_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "n_inner",
    "num_key_value_heads",
    "num_kv_heads",
    "n_head_kv",
    "max_window_layers",
    "type_vocab_size",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "state_size",
    "rotary_dim",
)
"""Fields that count something of which there may be none."""

DIRECTIONS = {"is_causal", "causal", "use_bidirectional_attention", "attn_type"}
"""Fields that say in which directions a model reads."""

_FREE = ("id2label", "label2id", "task_specific_params")
"""Fields whose keys are free words."""

_TEXT = ("text_config.", "decoder.", "generator.")
"""Where a config of several models keeps that of the language model."""

_FLOATS = ("float32", "float16", "bfloat16", "float64", "auto")
_QUANTIZED = ("quantization_config", "compression_config", "quantization")
UNPACKED = (
    "take the model it was made from, in float32, float16 or bfloat16, and quantize it "
    "here (flyweight quantize)"
)

_OTHER_FILES = ("transformers_weights", "fusion_config", "configuration_files")
_IMPLEMENTATIONS = (
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
)


def refuse(path: Path, raw: Mapping[str, object]) -> None:
    """Raise RequestError where a config asks for what is never done here, with every reason."""
    reasons = [*_numbers(raw), *_quantized(raw), *_elsewhere(raw), *both_directions(raw)]
    if reasons:
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise RequestError(
            f"{path}: its config.json cannot be used: {'; '.join(reasons[:5])}{more}"
        )


def both_directions(raw: Mapping[str, object]) -> list[str]:
    """Return the fields that say that a model reads later tokens as well.

    Such a model gives neither likelihoods nor text.
    """
    means = "so it reads in both directions, and neither likelihood nor generation mean anything"
    reasons = []
    for place, key, value in _fields(raw):
        if place != key and not place.startswith(_TEXT):
            continue
        causal = key in ("is_causal", "causal") and value is not True
        bidirectional = key == "use_bidirectional_attention" and value in (True, "all")
        if causal or bidirectional or (key == "attn_type" and value == "bi"):
            reasons.append(f"{place} is {_shown(value)}, {means}")
    names = raw.get("architectures")
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if any(name.endswith("ForMaskedLM") for name in names):
        reasons.append(f"it is a masked language model ({', '.join(names)[:100]}), {means}")
    return reasons


def _numbers(raw: Mapping[str, object]) -> list[str]:
    reasons = []
    for place, key, value in _fields(raw):
        values = value if isinstance(value, list) else [value]
        if key in (*_LAYERS, *_SIZES, *_COUNTS):
            least = 1 if key in _SIZES else 0
            most = MOST_LAYERS if key in _LAYERS else MOST
            numbers = [one for one in values if one is not None]
            if not all(type(one) is int and least <= one <= most for one in numbers):
                reasons.append(
                    f"{place} is {_shown(value)}, not a whole number from {least} to {most:,}"
                )
                continue
        if any(type(one) is int and abs(one) >= 2**63 for one in values):
            reasons.append(f"{place} is {_shown(value)}, which overflows")
        elif any(isinstance(one, float) and one != one for one in values) or value == {
            "__float__": "NaN"
        }:
            reasons.append(f"{place} is not a number (NaN)")
    return reasons


def _quantized(raw: Mapping[str, object]) -> list[str]:
    reasons = []
    for place, key, value in _fields(raw):
        if key in _QUANTIZED and value is not None:
            method = value.get("quant_method") if isinstance(value, dict) else value
            reasons.append(
                f"{place} says that its weights are quantized ({_shown(method)}): {UNPACKED}"
            )
        if key in ("dtype", "torch_dtype") and value is not None and value not in _FLOATS:
            reasons.append(
                f"{place} is {_shown(value)}; weights are read here in {', '.join(_FLOATS[:4])}"
            )
    return reasons


def _elsewhere(raw: Mapping[str, object]) -> list[str]:
    """Return the fields that make transformers read files that are not checked here."""
    reasons = []
    for place, key, value in _fields(raw):
        if key in _OTHER_FILES and value is not None:
            reasons.append(
                f"{place} is {_shown(value)}, which flyweight does not follow; remove it, or save "
                "the model anew"
            )
        words = value.values() if isinstance(value, dict) else [value]
        if key in _IMPLEMENTATIONS and any(isinstance(word, str) and "/" in word for word in words):
            reasons.append(
                f"{place} names code of another repository ({_shown(value)}), which flyweight does "
                "not fetch"
            )
    return reasons


def _fields(raw: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    """Yield (path, name, value) of every field, also of configs inside the config."""
    levels: list[tuple[str, Mapping[str, Any]]] = [("", raw)]
    while levels:
        before, level = levels.pop()
        for key, value in level.items():
            yield before + key, key, value
            if isinstance(value, dict) and key not in _FREE:
                levels.append((f"{before}{key}.", value))


def _shown(value: object) -> str:
    return f"{value!r:.80}"
