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

from flyweight.config.adapters import TrainedPart
from flyweight.config.linear_kinds import Dense, StoredTensor
from flyweight.config.mixture import CONFIDENCE, table_bytes
from flyweight.config.schema import (
    AdamW,
    Alpha,
    Architecture,
    Deep,
    LayerNorm,
    Learned,
    ModelConfig,
    Muon,
    NoSharing,
    Optimizer,
)
from flyweight.spec import flops_adapters, flops_baselines, flops_partial
from flyweight.spec.gradients import qkv_need_grad, saved_products, visits_without_input_grad
from flyweight.spec.linears import attention_shapes, bigram_rows, kind_of, mlp_shapes
from flyweight.spec.parts import Matrix, Vector
from flyweight.spec.visits import mixes_values, stack_size, unet_sources, uses, visits
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
ADAPTERS = "adapters"
MIXTURE_PARTS = ("gates", "counts")
BLOCK_PARTS = ("attention", "mlp", "lstm")
"""Parts whose matrices are those of the blocks: Muon's."""
TABLES = ("positions", "index")
"""Parts of vectors that stand together as a matrix: weight decay acts on them."""

# AdamW, per element: first moment 3, second moment 4, root, bias correction, eps, quotient, step
# size, subtraction.
ADAMW_FLOPS = 13
# Muon, per element beside its matrix products: momentum 3, Nesterov 3, norm 2, division 1, step 2.
MUON_FLOPS = 11
DECAY_FLOPS = 1


@dataclass(frozen=True)
class Parameters:
    """Parameter counts: `unique` numbers are stored; `total` counts a layer once for every visit.

    Parts add up to `unique`.
    """

    total: int
    unique: int
    by_part: dict[str, int]


def parameters(config: Architecture) -> Parameters:
    """Return how many parameters a model has.

    A tied head counts once, a quantized weight as the number it stands for.
    """
    config = config.resolved()
    by_part = dict.fromkeys(_parts(config), 0)
    total = 0
    for matrix in _matrices(config):
        by_part[matrix.part] += matrix.parameters
        total += matrix.parameters * matrix.visits
    for vector in _vectors(config):
        by_part[vector.part] += vector.size
        total += vector.size * vector.visits
    return Parameters(total, sum(by_part.values()), by_part)


def _parts(config: Architecture) -> tuple[str, ...]:
    if not isinstance(config, ModelConfig):
        return flops_baselines.parts(config)
    parts = PARTS if config.mixture is None else (*PARTS, *MIXTURE_PARTS)
    return (*parts, ADAPTERS) if config.adapters else parts


def forward_flops(config: Architecture, length: int, looped: bool = True) -> int:
    """Return the FLOPs of a forward pass over one sequence of `length` tokens, all logits included.

    Not `looped` is before a decoder's loop over a span of layers is switched on.
    """
    config = config.resolved()
    matrices = sum(matrix.forward for matrix in _matrices(config, looped))
    return 2 * length * matrices + _attention_flops(config, length, looped, 2)


def training_flops(
    config: Architecture, length: int, looped: bool = True, trains: TrainedPart = "full"
) -> int:
    """Return the FLOPs of forward and backward over one sequence of `length` tokens.

    Weights outside the part that `trains`, and quantized ones, get no gradient.
    """
    config = config.resolved()
    if isinstance(config, ModelConfig) and (config.adapters or trains != "full"):
        backward = flops_partial.backward_flops(config, length, trains, looped)
        return forward_flops(config, length, looped) + backward
    heads = [matrix for matrix in _matrices(config) if matrix.part == "head"]
    if trains != "full" and heads:
        # A baseline has no norm behind its layers: nothing goes back beyond its head.
        return forward_flops(config, length) + 2 * length * sum(map(_own_gradient, heads))
    matrices = sum(matrix.training for matrix in _matrices(config, looped))
    return (
        2 * length * matrices
        + _attention_flops(config, length, looped, 6)
        - _saved_flops(config, length, looped)
    )


def _own_gradient(matrix: Matrix) -> int:
    """Return the multiplications for each token of a matrix's own gradient."""
    products = matrix.kind.products(matrix.out, matrix.in_)
    return sum(product.size for product in products if product.trains)


def optimizer_flops(
    config: Architecture, optimizer: Optimizer, trains: TrainedPart = "full"
) -> int:
    """Return the FLOPs of one optimizer step over the parameters of the part that trains.

    AdamW takes 13 per parameter and one more where weight decay acts, on matrices. Muon takes, for
    each matrix (a, b) of a block with a <= b, 4 a^2 b + 2 a^3 per Newton-Schulz iteration, and 11
    (and the decay's one) per element; its AdamW takes the rest.
    """
    config = config.resolved()
    rest = optimizer if isinstance(optimizer, AdamW) else optimizer.rest
    decayed = ADAMW_FLOPS + (DECAY_FLOPS if rest.weight_decay else 0)
    flops = 0
    for vector in _trained_vectors(config, trains):
        decays = vector.part in TABLES or vector.decays
        flops += (decayed if decays else ADAMW_FLOPS) * vector.size
    for matrix in _trained_matrices(config, trains):
        flops += ADAMW_FLOPS * matrix.out * matrix.bias
        for tensor in matrix.kind.tensors(matrix.out, matrix.in_):
            if not tensor.trains:
                continue
            if len(tensor.shape) < 2:
                flops += ADAMW_FLOPS * tensor.size
            elif isinstance(optimizer, Muon) and matrix.part in BLOCK_PARTS:
                flops += _muon_flops(optimizer, tensor)
            else:
                flops += decayed * tensor.size
    return flops


def _muon_flops(optimizer: Muon, tensor: StoredTensor) -> int:
    """Return the FLOPs of one step of Muon for a matrix."""
    short, long = sorted(tensor.shape)
    iteration = 4 * short**2 * long + 2 * short**3
    element = MUON_FLOPS + (DECAY_FLOPS if optimizer.weight_decay else 0)
    return optimizer.iterations * iteration + element * tensor.size


def trained_parameters(config: Architecture, trains: TrainedPart = "full") -> int:
    """Return how many numbers an optimizer moves: without what is frozen or packed.

    `trains` is the part of the model that a training moves.
    """
    config = config.resolved()
    matrices = sum(matrix.trained for matrix in _trained_matrices(config, trains))
    vectors = _trained_vectors(config, trains)
    return matrices + sum(vector.size for vector in vectors if vector.stored is None)


def muon_parameters(config: Architecture, trains: TrainedPart = "full") -> int:
    """Return how many of these are in the blocks' matrices, which Muon moves."""
    return sum(
        tensor.size
        for matrix in _trained_matrices(config.resolved(), trains)
        if matrix.part in BLOCK_PARTS
        for tensor in matrix.kind.tensors(matrix.out, matrix.in_)
        if tensor.trains and len(tensor.shape) == 2
    )


def _trained_matrices(config: Architecture, trains: TrainedPart) -> Iterator[Matrix]:
    """Yield the matrices of the part that trains; a tied embedding is the head."""
    parts = {"adapters": (ADAPTERS,), "frozen": _head_parts(config)}.get(trains)
    for matrix in _matrices(config):
        if parts is None or matrix.part in parts:
            yield matrix


def _trained_vectors(config: Architecture, trains: TrainedPart) -> Iterator[Vector]:
    """Yield the vectors of the part that trains: the final norm stands with the head."""
    for vector in _vectors(config):
        if trains == "frozen":
            chosen = vector.part == "head" or vector.final
        else:
            chosen = trains == "full" or vector.part == ADAPTERS
        if chosen:
            yield vector


def _head_parts(config: Architecture) -> tuple[str, ...]:
    tied = not any(matrix.part == "head" for matrix in _matrices(config))
    return ("head", "embedding") if tied else ("head",)


def kv_bytes_per_token(config: Architecture, itemsize: int = 4) -> int:
    """Return the bytes of keys and values that one token leaves in the cache.

    `itemsize` is bytes per number.

    Baselines have neither: what they keep does not grow with the text.
    """
    if not isinstance(config, ModelConfig):
        return 0
    config = config.resolved()
    widths = [_kv_width(config.layer(index)) for index in range(config.layers)]
    return sum(
        2 * visit.keys_per_token * widths[visit.layer] * itemsize for visit in visits(config)
    )


def _kv_width(layer: ModelConfig) -> int:
    """Return the numbers in one token's keys, for the config of a layer."""
    return (layer.attention.kv_heads or 0) * (layer.attention.head_dim or 0)


def kv_bytes(config: Architecture, length: int, itemsize: int = 4) -> int:
    """Return the bytes of a cache with room for `length` tokens of one row.

    A sliding window bounds it: beyond the window a token takes the place of another.
    """
    if not isinstance(config, ModelConfig):
        return 0
    config = config.resolved()
    layers = [config.layer(index) for index in range(config.layers)]
    sizes = [_kv_width(layer) * cached_tokens(layer.attention, length) for layer in layers]
    return sum(2 * visit.keys_per_token * sizes[visit.layer] * itemsize for visit in visits(config))


def weight_bytes(config: Architecture, itemsize: int = 4) -> int:
    """Return the bytes of the stored tensors: floats at `itemsize` each, other layers as packed."""
    config = config.resolved()
    parts = (*_matrices(config), *_vectors(config))
    return sum(part.nbytes(itemsize) for part in parts)


def _attention_flops(config: Architecture, length: int, looped: bool, products: int) -> int:
    """Return the FLOPs of so many products of attention in every visit, prefixes included."""
    if not isinstance(config, ModelConfig):
        return 0
    prefixes = flops_adapters.prefix_flops(config, length, looped)
    cost = [_attention_product(config.layer(index), length) for index in range(config.layers)]
    text = sum(visit.keys_per_token * cost[visit.layer] for visit in visits(config, looped))
    return products * (text + prefixes)


def _saved_flops(config: Architecture, length: int, looped: bool) -> int:
    """Return the FLOPs of backward products whose inputs need no gradient."""
    if not isinstance(config, ModelConfig):
        return flops_baselines.unneeded_flops(config, length)
    return sum(
        visit.keys_per_token
        * saved_products(config, visit)
        * _attention_product(config.layer(visit.layer), length)
        for visit in visits_without_input_grad(config, looped)
    )


def _attention_product(layer: ModelConfig, length: int) -> int:
    """Return the FLOPs of one of attention's two products in a layer, for one key a token."""
    attention = layer.attention
    return 2 * (attention.heads or 0) * (attention.head_dim or 0) * scores(attention, length)


def _matrices(config: Architecture, looped: bool = True) -> Iterator[Matrix]:
    if not isinstance(config, ModelConfig):
        yield from flops_baselines.matrices(config)
        return
    yield from _embedding_matrices(config)
    yield from _block_matrices(config, looped)
    yield from flops_adapters.matrices(config, looped)
    if config.mixture is not None:
        width = config.dim + CONFIDENCE
        yield Matrix(part="gates", out=config.mixture.experts, in_=width, kind=Dense(), products=1)
    if not config.embedding.tied:
        yield Matrix(
            part="head",
            out=config.vocab_size or 0,
            in_=config.dim,
            kind=kind_of(config, "head.linear"),
            bias=config.head.bias,
            products=1,
        )


def _embedding_matrices(config: ModelConfig) -> Iterator[Matrix]:
    rank, tied = config.embedding.rank, config.embedding.tied
    table = kind_of(config, "embedding.tokens")
    yield Matrix(
        part="embedding",
        out=config.vocab_size or 0,
        in_=rank or config.dim,
        kind=table,
        products=1 if tied else 0,
    )
    if rank:
        yield Matrix(
            part="embedding",
            out=config.dim,
            in_=rank,
            kind=kind_of(config, "embedding.expand"),
            products=2 if tied else 1,
            blind=0 if table.trains else 1,
        )
    if rows := bigram_rows(config):
        kind = kind_of(config, "embedding.bigram")
        yield Matrix(part="bigram", out=rows, in_=config.dim, kind=kind)


def _block_matrices(config: ModelConfig, looped: bool) -> Iterator[Matrix]:
    whole, written = uses(config, looped)
    for index in range(config.layers):
        layer = config.layer(index)
        for shape in attention_shapes(layer):
            times = whole[index] + (written[index] if shape.name in ("k", "v") else 0)
            yield Matrix(
                part="attention",
                out=shape.out,
                in_=shape.in_,
                kind=kind_of(config, f"blocks.{index}.attention.{shape.name}"),
                bias=shape.bias,
                products=times,
                visits=times,
                blind=_blind(config, shape.name, looped) if index == 0 else 0,
            )
        for shape in mlp_shapes(layer):
            yield Matrix(
                part="mlp",
                out=shape.out,
                in_=shape.in_,
                kind=kind_of(config, f"blocks.{index}.mlp.{shape.name}"),
                bias=shape.bias,
                products=whole[index],
                visits=whole[index],
            )


def _blind(config: ModelConfig, name: str, looped: bool) -> int:
    """Return how many products with a matrix of the first layer's attention have a blind input."""
    blind = visits_without_input_grad(config, looped)
    if name == "out":
        gate = config.layer(0).attention.gate and kind_of(config, "blocks.0.attention.gate").trains
        return sum(
            visit.keys_per_token > 0 and not gate and not any(qkv_need_grad(config, visit))
            for visit in blind
        )
    return sum(visit.keys_per_token > 0 or name in ("k", "v") for visit in blind)


def _vectors(config: Architecture) -> Iterator[Vector]:
    if not isinstance(config, ModelConfig):
        yield from flops_baselines.vectors(config)
        return
    norm, sharing = _norm_size(config), config.sharing
    if isinstance(config.position, Learned):
        rows = (config.context or 0) + config.first_position
        yield Vector(part="positions", size=rows * config.dim)
    if not isinstance(sharing, NoSharing) and sharing.index:
        yield Vector(part="index", size=stack_size(config) * config.dim)
    if "unet" in config.skips:
        yield Vector(part="residual", size=len(unet_sources(config)))
    if "embedding" in config.skips:
        yield Vector(part="residual", size=2 * (stack_size(config) - 1))
    whole, _ = uses(config)
    for index in range(config.layers):
        yield from _layer_vectors(config.layer(index), norm, whole[index])
        if mixes_values(config, index):
            yield Vector(part="attention", size=2, visits=whole[index])
    yield from flops_adapters.vectors(config)
    if config.norm.final:
        yield Vector(part="norms", size=norm, final=True)
    if config.head.bias and config.embedding.tied:
        yield Vector(part="head", size=config.vocab_size or 0)
    if config.mixture is not None:
        yield Vector(part="gates", size=config.mixture.gate_rows * config.mixture.experts)
        counts = config.mixture.counts
        if counts is not None:
            size = table_bytes(counts, config.vocab_size or 0)
            yield Vector(part="counts", size=sum(counts.entries or ()), stored=size)


def _norm_size(config: ModelConfig) -> int:
    shifted = isinstance(config.norm, LayerNorm) and config.norm.bias
    return 2 * config.dim if shifted else config.dim


def _layer_vectors(layer: ModelConfig, norm: int, visits: int) -> Iterator[Vector]:
    attention, thinking = layer.attention, layer.thinking
    yield Vector(part="norms", size=2 * norm, visits=visits)
    if attention.qk_norm:
        yield Vector(part="norms", size=2 * (attention.head_dim or 0), visits=visits)
    if attention.gain:
        yield Vector(part="attention", size=attention.heads or 0, visits=visits)
    if isinstance(layer.residual, Alpha):
        yield Vector(part="residual", size=2, visits=visits)
    if isinstance(thinking, Deep) and thinking.learned:
        yield Vector(part="thinking", size=1, visits=visits)
