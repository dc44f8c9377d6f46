"""Our own transformers model type as a config, for models that fit no family; no torch."""

from __future__ import annotations

from flyweight.config.schema import ModelConfig
from flyweight.spec.visits import slots

OWN = "flyweight"


def own_fields(config: ModelConfig) -> dict[str, object]:
    """Return the fields of a config.json of our own type.

    They are the config itself, and the sizes that libraries ask for by name.
    transformers wants as many layers as its cache has slots: one for every visit that attends.
    """
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.dim,
        "num_hidden_layers": len(slots(config)),
        "num_attention_heads": config.attention.heads,
        "num_key_value_heads": config.attention.kv_heads,
        "head_dim": config.attention.head_dim,
        "final_logit_softcapping": config.head.softcap,
        "tie_word_embeddings": False,
        OWN: config.model_dump(mode="json"),
    }
