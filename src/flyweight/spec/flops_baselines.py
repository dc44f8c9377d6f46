"""What the linear, MLP and LSTM baselines are made of, for `flyweight.spec.flops` to count.

No torch.

An LSTM's products are those of its steps one after the other; torch's counter sees none in a fused
LSTM.
"""

from __future__ import annotations

from collections.abc import Iterator

from flyweight.config.schema import LinearConfig, LstmConfig, MlpConfig
from flyweight.spec.linears import kind_of
from flyweight.spec.parts import Matrix, Vector

Baseline = LinearConfig | MlpConfig | LstmConfig


def parts(config: Baseline) -> tuple[str, ...]:
    """Return the parts that parameters are counted under."""
    own = {"linear": (), "mlp": ("mlp",), "lstm": ("lstm",)}[config.kind]
    return ("embedding", *own, "head")


def matrices(config: Baseline) -> Iterator[Matrix]:
    """Yield every matrix of a resolved config, in the model's order."""
    vocab = config.vocab_size or 0
    tied = isinstance(config, LstmConfig) and config.tied
    table = kind_of(config, "embedding.tokens")
    yield Matrix(part="embedding", out=vocab, in_=config.dim, kind=table, products=1 if tied else 0)
    if isinstance(config, LstmConfig):
        yield from _lstm_matrices(config)
        width = config.hidden or 0
    else:
        width = (config.history or 0) * config.dim
    if isinstance(config, MlpConfig):
        for layer in range(config.layers):
            yield Matrix(
                part="mlp",
                out=config.hidden,
                in_=width,
                kind=kind_of(config, f"blocks.{layer}"),
                bias=True,
                products=1,
            )
            width = config.hidden
    if not tied:
        kind = kind_of(config, "head.linear")
        yield Matrix(part="head", out=vocab, in_=width, kind=kind, products=1)


def _lstm_matrices(config: LstmConfig) -> Iterator[Matrix]:
    hidden = config.hidden or 0
    for layer in range(config.layers):
        yield Matrix(
            part="lstm",
            out=4 * hidden,
            in_=hidden if layer else config.dim,
            kind=kind_of(config, f"blocks.{layer}.input"),
            bias=True,
            products=1,
        )
        yield Matrix(
            part="lstm",
            out=4 * hidden,
            in_=hidden,
            kind=kind_of(config, f"blocks.{layer}.recurrent"),
            products=1,
        )


def vectors(config: Baseline) -> Iterator[Vector]:
    """Yield what is neither a matrix nor its bias: an n-gram model's padding."""
    if not isinstance(config, LstmConfig):
        yield Vector(part="embedding", size=config.dim)


def unneeded_flops(config: Baseline, length: int) -> int:
    """Return the FLOPs that training an LSTM saves, by gradients nobody needs.

    They are those of the state before the first step and, where the embedding is packed, of what
    the first layer reads.
    """
    if not isinstance(config, LstmConfig):
        return 0
    gates = 4 * (config.hidden or 0)
    packed = not kind_of(config, "embedding.tokens").trains
    return (
        2 * gates * (config.layers * (config.hidden or 0) + (length * config.dim if packed else 0))
    )


def activations(config: Baseline) -> int:
    """Return how many numbers autograd keeps of one token.

    They are the inputs of matrices, and of what works element by element.
    """
    if isinstance(config, LstmConfig):
        return config.dim + config.layers * 9 * (config.hidden or 0)
    wide = (config.history or 0) * config.dim
    return 2 * wide + (3 * config.layers * config.hidden if isinstance(config, MlpConfig) else 0)


def head_width(config: Baseline) -> int:
    """Return how many numbers of a position the head multiplies."""
    return next(
        each.in_
        for each in matrices(config)
        if each.products and each.part in ("head", "embedding")
    )
