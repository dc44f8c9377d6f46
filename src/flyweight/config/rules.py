"""Cross-field checks of a model config; each returns all faults, so that a user sees them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flyweight.config.architecture import ModelConfig


def model_faults(config: ModelConfig) -> list[str]:
    """Return every contradiction between a model config's fields, in words."""
    faults: list[str] = []
    attention, dim = config.attention, config.dim
    heads = attention.heads
    if heads and attention.head_dim is None and dim % heads:
        faults.append(f"attention.heads: {heads} does not divide dim {dim}; choose a divisor or set attention.head_dim")
    if heads and attention.kv_heads and heads % attention.kv_heads:
        faults.append(f"attention.kv_heads: {attention.kv_heads} does not divide attention.heads {heads}")
    if attention.kv_heads and not heads:
        faults.append("attention.kv_heads: needs attention.heads beside it")
    if config.position.kind == "rope":
        head_dim = attention.head_dim or (dim // heads if heads else None)
        if head_dim is not None:
            rotary = int(head_dim * config.position.fraction)
            if rotary < 2 or rotary % 2:
                faults.append(
                    f"position.fraction: {config.position.fraction} of head_dim {head_dim} is {rotary} channels;"
                    " rope turns pairs, so it needs an even number of at least 2"
                )
    if config.embedding.bigram.kind == "exact" and (config.vocab_size or 0) > 1024:
        faults.append(
            f"embedding.bigram: an exact table for vocab_size {config.vocab_size} has {config.vocab_size}^2 rows;"
            " use {kind: hashed, buckets: ...}"
        )
    for pattern, kind in config.linears.items():
        if kind.kind == "nf4" and kind.block % 2:
            faults.append(f"linears.{pattern}.block: {kind.block} is odd; 4-bit values are packed in pairs")
    return faults
