"""Names of a model's linear layers and tables, and the kind that a config's patterns give to each; no torch."""

from __future__ import annotations

from fnmatch import fnmatchcase

from flyweight.config.schema import (
    Architecture,
    Dense,
    ExactBigram,
    HashedBigram,
    LinearConfig,
    LinearKind,
    LstmConfig,
    MlpConfig,
    ModelConfig,
    SwiGLU,
)
from flyweight.errors import RequestError

ATTENTION_LINEARS = ("q", "k", "v", "out")
LSTM_LINEARS = ("input", "recurrent")


def mlp_linears(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the linear layers of one MLP, in the order in which they are used."""
    return ("gate", "up", "down") if isinstance(config.mlp, SwiGLU) else ("up", "down")


def linear_names(config: Architecture) -> list[str]:
    """Return the module name of every layer that can be of another kind, embedding tables included."""
    if not isinstance(config, ModelConfig):
        return _baseline_names(config)
    names = ["embedding.tokens"]
    if config.embedding.bigram.kind != "none":
        names.append("embedding.bigram")
    for layer in range(config.layers):
        names += [f"blocks.{layer}.attention.{name}" for name in ATTENTION_LINEARS]
        names += [f"blocks.{layer}.mlp.{name}" for name in mlp_linears(config)]
    return names if config.embedding.tied else [*names, "head.linear"]


def _baseline_names(config: LinearConfig | MlpConfig | LstmConfig) -> list[str]:
    names = ["embedding.tokens"]
    if isinstance(config, MlpConfig):
        names += [f"blocks.{layer}" for layer in range(config.layers)]
    elif isinstance(config, LstmConfig):
        names += [f"blocks.{layer}.{name}" for layer in range(config.layers) for name in LSTM_LINEARS]
        if config.tied:
            return names
    return [*names, "head.linear"]


def bigram_rows(config: ModelConfig) -> int:
    """Return how many rows the bigram table has; the exact one also knows "no token" as a predecessor."""
    pairs, vocab = config.embedding.bigram, config.vocab_size or 0
    if isinstance(pairs, HashedBigram):
        return pairs.buckets
    return (vocab + 1) * vocab if isinstance(pairs, ExactBigram) else 0


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def kind_of(config: Architecture, name: str) -> LinearKind:
    """Return the kind of the linear layer `name`: the first pattern that matches it, or a module that holds it, decides."""
    return next((kind for pattern, kind in config.linears.items() if _matches(name, pattern)), Dense())


def check_patterns(config: Architecture) -> None:
    """Raise RequestError for a pattern in `linears` that no layer of a model like this can match."""
    if isinstance(config, ModelConfig):
        names = {*linear_names(config.model_copy(update={"layers": max(1, config.layers)})), "embedding.bigram", "head.linear"}
    else:
        names = {*linear_names(config), "head.linear"}
    for pattern in config.linears:
        if not any(_matches(name, pattern) for name in names):
            known = ", ".join(sorted(name for name in names if not name.startswith("blocks.") or name.startswith("blocks.0.")))
            raise RequestError(f"linears.{pattern}: no layer has such a name; names are {known} (`*` stands for anything)")
