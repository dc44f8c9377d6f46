"""A model's linear layers and tables: their names, sizes and kinds; no torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from flyweight.config.schema import (
    GATED,
    Architecture,
    Dense,
    ExactBigram,
    HashedBigram,
    LinearConfig,
    LinearKind,
    LstmConfig,
    MlpConfig,
    ModelConfig,
)
from flyweight.errors import RequestError

LSTM_LINEARS = ("input", "recurrent")


class Shape(NamedTuple):
    """A linear layer's name within its module, its sizes and whether it has a bias."""

    name: str
    out: int
    in_: int
    bias: bool = False


def mlp_linears(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the linear layers of one MLP, in the order in which they are used.

    `rank` makes two of each.
    """
    return ("gate", "up", "down") if config.mlp.kind in GATED else ("up", "down")


def attention_linears(config: ModelConfig, layer: int) -> tuple[str, ...]:
    """Return the names of the linear layers of a layer's attention, those that read x first."""
    gate = ("gate",) if config.layer(layer).attention.gate else ()
    return ("q", "k", "v", *gate, "out")


def attention_shapes(config: ModelConfig) -> tuple[Shape, ...]:
    """Return the linear layers of attention in a resolved config of one layer."""
    options, dim = config.attention, config.dim
    assert options.heads and options.kv_heads and options.head_dim
    wide, narrow, bias = (
        options.heads * options.head_dim,
        options.kv_heads * options.head_dim,
        options.bias,
    )
    return (
        Shape("q", wide, dim, bias),
        Shape("k", narrow, dim, bias),
        Shape("v", narrow, dim, bias),
        *([Shape("gate", options.heads, dim)] if options.gate else []),
        Shape("out", dim, wide, bool(options.out_bias)),
    )


def head_sizes(config: ModelConfig) -> list[int]:
    """Return the sizes that the heads of a resolved config's layers have, in ascending order."""
    if not config.blocks:
        return [config.attention.head_dim or 0]
    layers = [config.layer(index) for index in range(config.layers)]
    return sorted({layer.attention.head_dim or 0 for layer in layers})


def mlp_shapes(config: ModelConfig) -> tuple[Shape, ...]:
    """Return the linear layers of the MLP in a resolved config of one layer.

    A bottleneck has two in place of each.
    """
    options, found = config.mlp, list[Shape]()
    hidden = options.width(config.dim)
    for name in mlp_linears(config):
        out, in_ = (config.dim, hidden) if name == "down" else (hidden, config.dim)
        if options.rank is None:
            found.append(Shape(name, out, in_, options.bias))
        else:
            found += [
                Shape(f"{name}.reduce", options.rank, in_),
                Shape(f"{name}.expand", out, options.rank, options.bias),
            ]
    return tuple(found)


def linear_names(config: Architecture) -> list[str]:
    """Return the module name of every linear layer, embedding tables included."""
    if not isinstance(config, ModelConfig):
        return _baseline_names(config)
    names = ["embedding.tokens"]
    if config.embedding.rank is not None:
        names.append("embedding.expand")
    if config.embedding.bigram.kind != "none":
        names.append("embedding.bigram")
    for layer in range(config.layers):
        names += [f"blocks.{layer}.attention.{name}" for name in attention_linears(config, layer)]
        names += [f"blocks.{layer}.mlp.{shape.name}" for shape in mlp_shapes(config.layer(layer))]
    return names if config.embedding.tied else [*names, "head.linear"]


def block_names(config: Architecture) -> list[str]:
    """Return the module names of the matrices that are not tables: those of the blocks.

    Of a linear model it is its one matrix, the head.
    """
    part = "head" if isinstance(config, LinearConfig) else "blocks"
    return [name for name in linear_names(config) if name.split(".")[0] == part]


def float_name(config: ModelConfig) -> str:
    """Return the name of a parameter that is never packed, and so tells the dtype of a model."""
    return "norm.weight" if config.norm.final else "blocks.0.attention_norm.weight"


def _baseline_names(config: LinearConfig | MlpConfig | LstmConfig) -> list[str]:
    names = ["embedding.tokens"]
    if isinstance(config, MlpConfig):
        names += [f"blocks.{layer}" for layer in range(config.layers)]
    elif isinstance(config, LstmConfig):
        names += [
            f"blocks.{layer}.{name}" for layer in range(config.layers) for name in LSTM_LINEARS
        ]
        if config.tied:
            return names
    return [*names, "head.linear"]


def bigram_rows(config: ModelConfig) -> int:
    """Return how many rows the bigram table has.

    The exact one also knows "no token" as a predecessor.
    """
    pairs, vocab = config.embedding.bigram, config.vocab_size or 0
    if isinstance(pairs, HashedBigram):
        return pairs.buckets
    return (vocab + 1) * vocab if isinstance(pairs, ExactBigram) else 0


def bigram_lookback(config: ModelConfig) -> int:
    """Return how many tokens before its own a row of the bigram table depends on: 0 without one."""
    pairs = config.embedding.bigram
    return (
        pairs.order - 1 if isinstance(pairs, HashedBigram) else int(isinstance(pairs, ExactBigram))
    )


def matches(name: str, pattern: str) -> bool:
    """Return whether a pattern names a module, or one that holds it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def kind_of(config: Architecture, name: str) -> LinearKind:
    """Return the kind of the linear layer `name`.

    The first pattern that matches it, or a module that holds it, decides.
    """
    return next(
        (kind for pattern, kind in config.linears.items() if matches(name, pattern)), Dense()
    )


def pattern_faults(config: Architecture) -> list[str]:
    """Return every pattern in `linears` that no layer of a model like this can match, in words."""
    if not config.linears:
        return []
    if isinstance(config, ModelConfig):
        widest = config.model_copy(update={"layers": max(1, config.layers)})
        names = {*linear_names(widest), "embedding.bigram", "embedding.expand", "head.linear"}
    else:
        names = {*linear_names(config), "head.linear"}
    known = ", ".join(
        sorted(
            name for name in names if not name.startswith("blocks.") or name.startswith("blocks.0.")
        )
    )
    return [
        f"linears.{pattern}: no layer has such a name; names are {known} (`*` stands for anything)"
        for pattern in config.linears
        if not any(matches(name, pattern) for name in names)
    ]


def check_patterns(config: Architecture) -> None:
    """Raise RequestError for patterns in `linears` that no layer of such a model matches."""
    if faults := pattern_faults(config):
        raise RequestError("\n".join(faults))
