"""What a model costs, from its config alone: parameters, FLOPs, cache and weight bytes.

No torch, nothing allocated.

FLOPs follow `torch.utils.flop_counter`: a product of (m, k) and (k, n) is 2mnk. Attention is the
full T x T, or what the blocks of a sliding window compute (see `windows`). Whatever works element
by element (norms, activations, rotations, softmax, biases) is nothing. Training is the plain loss:
every matrix and every attention product of the forward pass comes back twice in the backward pass,
once for each of its inputs, but for what has no gradient: packed weights, and the rows of a packed
table. Recomputation would come on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flyweight.config.mixture import CONFIDENCE, table_bytes
from flyweight.config.schema import (
    AdamW,
    Alpha,
    Architecture,
    Deep,
    Dense,
    Int8,
    LayerNorm,
    Learned,
    LinearKind,
    ModelConfig,
    NoSharing,
    Optimizer,
)
from flyweight.spec import flops_baselines
from flyweight.spec.gradients import blind_visits, of_queries_keys_values, saved_products
from flyweight.spec.linears import attention_shapes, bigram_rows, kind_of, mlp_shapes
from flyweight.spec.visits import slots, stack_size, uses
from flyweight.spec.windows import cached_tokens, scores

PARTS: tuple[str, ...] = (
    "embedding",
    "positions",
    "bigram",
    "index",
    "attention",
    "mlp",
    "norms",
    "residual",
    "thinking",
    "head",
)
MIXTURE_PARTS = ("gates", "counts")
TABLES = ("positions", "index")
"""Parts of vectors that stand together as a matrix: weight decay acts on them."""

# AdamW, per element: first moment 3, second moment 4, root, bias correction, eps, quotient, step
# size, subtraction.
ADAMW_FLOPS = 13
# Muon, per element beside its matrix products: momentum 3, Nesterov 3, norm 2, division 1, step 2.
MUON_FLOPS = 11
DECAY_FLOPS = 1

# As `linear_quant` stores them: a bfloat16 scale per int8 row; 256 8-bit NF4 scales share two
# float32 numbers.
INT8_SCALE_BYTES, NF4_GROUP, NF4_GROUP_BYTES = 2, 256, 8


@dataclass(frozen=True)
class Parameters:
    """Parameter counts: `unique` numbers are stored; `total` counts a layer once for every visit.

    Parts add up to `unique`.
    """

    total: int
    unique: int
    by_part: dict[str, int]


@dataclass(frozen=True)
class _Matrix:
    """One linear layer or embedding table (out, in) and how often a forward pass multiplies with it.

    `blind` of these products have an input that no gradient goes to.
    """

    part: str
    out: int
    in_: int
    bias: int
    kind: LinearKind
    products: int
    visits: int = 1
    blind: int = 0

    @property
    def size(self) -> int:
        return self.out * self.in_


@dataclass(frozen=True)
class _Vector:
    """Numbers that are no matrix; `stored` are their bytes where they are not floats."""

    part: str
    size: int
    visits: int = 1
    stored: int | None = None


def parameters(config: Architecture) -> Parameters:
    """Return how many parameters a model has.

    A tied head counts once, a quantized weight as the number it stands for.
    """
    config = config.resolved()
    by_part = dict.fromkeys(_parts(config), 0)
    total = 0
    for matrix in _matrices(config):
        by_part[matrix.part] += matrix.size + matrix.bias
        total += (matrix.size + matrix.bias) * matrix.visits
    for vector in _vectors(config):
        by_part[vector.part] += vector.size
        total += vector.size * vector.visits
    return Parameters(total, sum(by_part.values()), by_part)


def _parts(config: Architecture) -> tuple[str, ...]:
    if not isinstance(config, ModelConfig):
        return flops_baselines.parts(config)
    return PARTS if config.mixture is None else (*PARTS, *MIXTURE_PARTS)


def forward_flops(config: Architecture, length: int, looped: bool = True) -> int:
    """Return the FLOPs of one forward pass over one sequence of `length` tokens, logits of every position included.

    Not `looped` is before a decoder's loop over a span of layers is switched on.
    """
    config = config.resolved()
    matrices = sum(matrix.size * matrix.products for matrix in _matrices(config, looped))
    return 2 * length * matrices + _attention_flops(config, length, looped, 2)


def training_flops(config: Architecture, length: int, looped: bool = True) -> int:
    """Return the FLOPs of forward and backward over one sequence of `length` tokens.

    Quantized weights get no gradient.
    """
    config = config.resolved()
    matrices = sum(
        m.size * (m.products * (3 if _trains(m) else 2) - m.blind)
        for m in _matrices(config, looped)
    )
    return (
        2 * length * matrices
        + _attention_flops(config, length, looped, 6)
        - _saved_flops(config, length, looped)
    )


def optimizer_flops(config: Architecture, optimizer: Optimizer) -> int:
    """Return the FLOPs of one optimizer step over the trainable parameters.

    AdamW takes 13 per parameter and one more where weight decay acts, on matrices. Muon takes, for
    each matrix (a, b) of a block with a <= b, 4 a^2 b + 2 a^3 per Newton-Schulz iteration, and 11
    (and the decay's one) per element; its AdamW takes the rest.
    """
    config = config.resolved()
    rest = optimizer if isinstance(optimizer, AdamW) else optimizer.rest
    decayed = ADAMW_FLOPS + (DECAY_FLOPS if rest.weight_decay else 0)
    flops = sum(
        (decayed if vector.part in TABLES else ADAMW_FLOPS) * vector.size
        for vector in _vectors(config)
    )
    for matrix in _matrices(config):
        if not _trains(matrix):
            continue
        flops += ADAMW_FLOPS * matrix.bias
        if isinstance(optimizer, AdamW) or matrix.part not in ("attention", "mlp", "lstm"):
            flops += decayed * matrix.size
        else:
            short, long = sorted((matrix.out, matrix.in_))
            flops += optimizer.iterations * (4 * short**2 * long + 2 * short**3)
            flops += (MUON_FLOPS + (DECAY_FLOPS if optimizer.weight_decay else 0)) * matrix.size
    return flops


def kv_bytes_per_token(config: Architecture, itemsize: int = 4) -> int:
    """Return the bytes of keys and values that one token leaves in the cache.

    `itemsize` is bytes per number.

    Baselines have neither: what they keep does not grow with the text.
    """
    if not isinstance(config, ModelConfig):
        return 0
    attention = config.resolved().attention
    return 2 * sum(slots(config)) * (attention.kv_heads or 0) * (attention.head_dim or 0) * itemsize


def kv_bytes(config: Architecture, length: int, itemsize: int = 4) -> int:
    """Return the bytes of a cache with room for `length` tokens of one row.

    A sliding window bounds it: beyond the window a token takes the place of another.
    """
    if not isinstance(config, ModelConfig):
        return 0
    return kv_bytes_per_token(config, itemsize) * cached_tokens(config.attention, length)


def weight_bytes(config: Architecture, itemsize: int = 4) -> int:
    """Return the bytes of the stored tensors: floats at `itemsize` each, quantized layers as they are packed."""
    config = config.resolved()
    vectors = sum(v.size * itemsize if v.stored is None else v.stored for v in _vectors(config))
    return vectors + sum(
        stored_bytes(m.kind, m.out, m.in_, itemsize) + m.bias * itemsize for m in _matrices(config)
    )


def stored_bytes(kind: LinearKind, out: int, in_: int, itemsize: int) -> int:
    """Return the bytes that a weight (out, in) takes as this kind, its scales included and its bias not."""
    if isinstance(kind, Dense):
        return out * in_ * itemsize
    if isinstance(kind, Int8):
        return out * in_ + INT8_SCALE_BYTES * out
    blocks = -(-in_ // kind.block) * out
    scales = blocks + NF4_GROUP_BYTES * -(-blocks // NF4_GROUP) if kind.double else 4 * blocks
    return out * -(-in_ // 2) + scales


def _trains(matrix: _Matrix) -> bool:
    return isinstance(matrix.kind, Dense)


def _attention_flops(config: Architecture, length: int, looped: bool, products: int) -> int:
    """Return the FLOPs of so many products of attention in every visit."""
    return (
        products * _attention_product(config, length) * sum(slots(config, looped))
        if isinstance(config, ModelConfig)
        else 0
    )


def _saved_flops(config: Architecture, length: int, looped: bool) -> int:
    """Return the FLOPs of backward products that are not needed, because no gradient goes to their inputs."""
    if not isinstance(config, ModelConfig):
        return flops_baselines.unneeded_flops(config, length)
    saved = sum(
        visit.keys * saved_products(config, visit) for visit in blind_visits(config, looped)
    )
    return saved * _attention_product(config, length)


def _attention_product(config: ModelConfig, length: int) -> int:
    """Return the FLOPs of one of attention's two products, for one key a token."""
    attention = config.attention
    return 2 * (attention.heads or 0) * (attention.head_dim or 0) * scores(attention, length)


def _matrices(config: Architecture, looped: bool = True) -> Iterator[_Matrix]:
    if not isinstance(config, ModelConfig):
        yield from (_Matrix(*matrix) for matrix in flops_baselines.matrices(config))
        return
    vocab, tied, pairs, rank = (
        config.vocab_size or 0,
        config.embedding.tied,
        bigram_rows(config),
        config.embedding.rank,
    )
    table = kind_of(config, "embedding.tokens")
    yield _Matrix("embedding", vocab, rank or config.dim, 0, table, int(tied))
    if rank:
        kind, blind = kind_of(config, "embedding.expand"), int(not isinstance(table, Dense))
        yield _Matrix("embedding", config.dim, rank, 0, kind, 1 + tied, 1, blind)
    if pairs:
        yield _Matrix("bigram", pairs, config.dim, 0, kind_of(config, "embedding.bigram"), 0)
    whole, written = uses(config, looped)
    for layer in range(config.layers):
        for shape in attention_shapes(config):
            times = whole[layer] + (written[layer] if shape.name in ("k", "v") else 0)
            kind = kind_of(config, f"blocks.{layer}.attention.{shape.name}")
            blind = _blind(config, shape.name, looped) if layer == 0 else 0
            yield _Matrix(
                "attention", shape.out, shape.in_, shape.out * shape.bias, kind, times, times, blind
            )
        for shape in mlp_shapes(config):
            kind = kind_of(config, f"blocks.{layer}.mlp.{shape.name}")
            yield _Matrix(
                "mlp",
                shape.out,
                shape.in_,
                shape.out * shape.bias,
                kind,
                whole[layer],
                whole[layer],
            )
    if config.mixture is not None:
        width = config.dim + CONFIDENCE
        yield _Matrix("gates", config.mixture.experts, width, 0, Dense(), 1)
    if not tied:
        yield _Matrix(
            "head", vocab, config.dim, vocab * config.head.bias, kind_of(config, "head.linear"), 1
        )


def _blind(config: ModelConfig, name: str, looped: bool) -> int:
    """Return how many products with this matrix of the first layer's attention have an input without a gradient."""
    found = blind_visits(config, looped)
    if name == "out":
        return sum(
            visit.keys > 0 and not any(of_queries_keys_values(config, visit)) for visit in found
        )
    return sum(visit.keys > 0 or name != "q" for visit in found)


def _vectors(config: Architecture) -> Iterator[_Vector]:
    if not isinstance(config, ModelConfig):
        yield from (_Vector(*vector) for vector in flops_baselines.vectors(config))
        return
    attention, dim, sharing = config.attention, config.dim, config.sharing
    norm = dim * (2 if isinstance(config.norm, LayerNorm) and config.norm.bias else 1)
    whole, _ = uses(config)
    if isinstance(config.position, Learned):
        yield _Vector("positions", (config.context or 0) * dim)
    if not isinstance(sharing, NoSharing) and sharing.index:
        yield _Vector("index", stack_size(config) * dim)
    for layer in range(config.layers):
        times = whole[layer]
        yield _Vector(
            "norms", 2 * norm + (2 * (attention.head_dim or 0) if attention.qk_norm else 0), times
        )
        yield _Vector("attention", (attention.heads or 0) if attention.gain else 0, times)
        yield _Vector("residual", 2 if isinstance(config.residual, Alpha) else 0, times)
        yield _Vector(
            "thinking",
            1 if isinstance(config.thinking, Deep) and config.thinking.learned else 0,
            times,
        )
    if config.norm.final:
        yield _Vector("norms", norm)
    if config.head.bias and config.embedding.tied:
        yield _Vector("head", config.vocab_size or 0)
    if config.mixture is not None:
        yield _Vector("gates", config.mixture.gate_rows * config.mixture.experts)
        counts = config.mixture.counts
        if counts is not None:
            size = table_bytes(counts, config.vocab_size or 0)
            yield _Vector("counts", sum(counts.entries or ()), stored=size)
