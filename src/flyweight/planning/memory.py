"""Estimate the memory of training, part by part, without allocating it.

What autograd keeps is counted layer by layer, as `flyweight.model` computes it. Everything counts
at its largest at the same time, as the allocator seldom gives back what one moment needed before
the next. benchmarks/bench_plan_memory.py compares it with what training really takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from flyweight.config import schema
from flyweight.spec import flops, flops_baselines
from flyweight.spec.visits import visits
from flyweight.spec.windows import scores

LIBRARIES = 130_000_000
"""Bytes that a process loads when it trains for the first time, on a CPU.

torch's optimizers (70 MB), kernels, the tokenizer.
"""

CHUNK_ELEMENTS, CHUNK_ROWS = 2**22, 128
"""Logits that the head makes at once, and the rows it takes at least (see train.objectives)."""

LOGITS_AT_ONCE = 2**23
"""Logits that a validation makes at once (see evaluate.likelihood)."""

CHUNK_COPIES, DISTILLED_COPIES = 3, 8
"""Float32 numbers held for one logit of a chunk, with its log-probability and gradient.

The second number includes those of a teacher.
"""

WRITTEN_OUT = 512
"""Up to this length attention in bfloat16 on a CPU keeps its scores (see model.attention)."""

MLP_KEPT = {
    "relu": 1,
    "relu2": 2,
    "gelu": 2,
    "swiglu": 4,
    "geglu": 4,
    "double_relu": 3,
    "double_silu": 5,
}
"""Numbers that autograd keeps of one channel of an MLP: inputs of functions and products."""


@dataclass(frozen=True)
class Memory:
    """Peak training memory in bytes, by part.

    `copies` are the weights once more in the compute dtype, `libraries` what the process loads for
    training.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    teacher: int = 0
    copies: int = 0
    libraries: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(vars(self).values())


def training(
    model: schema.Architecture,
    train: schema.Train,
    context: int,
    itemsize: int = 4,
    teacher: schema.Architecture | None = None,
    device: str = "cpu",
) -> Memory:
    """Return the memory of training `model` on windows of `context` tokens.

    `itemsize` is the compute dtype's; weights always take 4 bytes. Activations are what autograd
    keeps of every block for one micro-batch: the inputs of each matrix, each norm and attention.
    """
    unique = flops.parameters(model).unique
    trained = flops.trained_parameters(model)
    states = 2 * trained
    if isinstance(train.optimizer, schema.Muon):
        states -= flops.muon_parameters(model)
    rows = train.batch // train.accumulate
    cpu = device == "cpu"
    return Memory(
        weights=flops.weight_bytes(model),
        gradients=4 * trained,
        optimizer=4 * states,
        activations=rows * context * kept_bytes(model, context, itemsize, cpu),
        head=_head(model, train, context, itemsize, teacher is not None),
        teacher=_teacher(teacher, rows * context, itemsize) if teacher else 0,
        copies=itemsize * unique if itemsize < 4 else 0,
        libraries=LIBRARIES if cpu else 0,
    )


def kept_bytes(model: schema.Architecture, context: int, itemsize: int, cpu: bool) -> int:
    """Return the bytes that autograd keeps of one token."""
    if not isinstance(model, schema.ModelConfig):
        return flops_baselines.activations(model) * itemsize
    stream = 4 * model.dim  # the residual stream is float32 in every precision
    ends = (
        2 * stream
        + 2 * model.dim * itemsize
        + (stream if model.embedding.bigram.kind != "none" else 0)
    )
    ends += 2 * stream if model.dropout.embedding else 0
    every = 2 * stream + 2 * model.dim * itemsize
    every += 2 * stream if isinstance(model.residual, schema.Alpha) else 0
    every += itemsize * _dropped(model)
    blocks, doubled = [], []
    for index in range(model.layers):
        layer = model.layer(index)
        kept = itemsize * (_attention(layer) + _mlp(layer))
        blocks.append(every + kept + _scores(layer, context, itemsize, cpu))
        doubled.append(4 * _kv(layer) * itemsize)
    used = visits(model)
    # A second key for each token is the memory's, beside a pass's own.
    remembered = sum(doubled[visit.layer] for visit in used if visit.keys == 2)
    return ends + sum(blocks[visit.layer] for visit in used) + remembered


def _attention(model: schema.ModelConfig) -> int:
    """Return the numbers kept of a token's queries, keys, values and attention's output."""
    attention = model.attention
    assert attention.heads and attention.head_dim
    q, kv = attention.heads * attention.head_dim, _kv(model)
    kept = 3 * q + 2 * kv + attention.heads
    kept += q + kv if attention.qk_norm else 0
    kept += q if attention.gain else 0
    return kept


def _kv(model: schema.ModelConfig) -> int:
    assert model.attention.kv_heads and model.attention.head_dim
    return model.attention.kv_heads * model.attention.head_dim


def _scores(model: schema.ModelConfig, context: int, itemsize: int, cpu: bool) -> int:
    """Return the bytes kept of a token's attention weights, where the kernel keeps them at all."""
    assert model.attention.heads
    window = model.attention.window
    whole = window is None or context <= window
    dropped = bool(model.dropout.attention)
    written_out = cpu and itemsize == 2 and context <= WRITTEN_OUT and whole
    if not (dropped or written_out):
        return 0
    copies = 1 + 2 * dropped  # the weights, the mask of what is dropped, and what is left
    keys = scores(model.attention, context) // context  # that a token looks at
    return copies * model.attention.heads * keys * itemsize


def _mlp(model: schema.ModelConfig) -> int:
    assert model.mlp.hidden
    matrices = 3 if model.mlp.kind in schema.GATED else 2
    return MLP_KEPT[model.mlp.kind] * model.mlp.hidden + matrices * (model.mlp.rank or 0)


def _dropped(model: schema.ModelConfig) -> int:
    """Return the numbers of the masks that dropout keeps: of both branches and the MLP's input."""
    dropout = model.dropout
    return model.dim * (2 * bool(dropout.residual) + bool(dropout.mlp))


def _head(
    model: schema.Architecture, train: schema.Train, context: int, itemsize: int, distilled: bool
) -> int:
    """Return the bytes of head and loss.

    They are a chunk's logits, the head's gradient, and the hidden states with their gradient.
    """
    vocab = model.vocab_size
    assert vocab
    width = (
        model.dim if isinstance(model, schema.ModelConfig) else flops_baselines.head_width(model)
    )
    tokens = train.batch // train.accumulate * context
    rows = min(tokens, max(CHUNK_ROWS, CHUNK_ELEMENTS // vocab))
    copies = DISTILLED_COPIES if distilled else CHUNK_COPIES
    training_step = (
        4 * copies * rows * vocab + 2 * 4 * vocab * width + 2 * tokens * width * itemsize
    )
    validated = (
        min(train.batch * context, train.validation_tokens, max(1, LOGITS_AT_ONCE // vocab)) * vocab
    )
    return max(training_step, 2 * 4 * validated if train.validations else 0)


def _teacher(teacher: schema.Architecture, tokens: int, itemsize: int) -> int:
    """Return the bytes of a teacher.

    They are its weights, also in the compute dtype, and what one layer holds while it reads.
    """
    weights = flops.weight_bytes(teacher)
    copies = itemsize * flops.parameters(teacher).unique if itemsize < 4 else 0
    if not isinstance(teacher, schema.ModelConfig):
        return weights + copies + tokens * flops_baselines.activations(teacher) * itemsize
    return weights + copies + tokens * (3 * 4 * teacher.dim + itemsize * _largest_layer(teacher))


def _largest_layer(model: schema.ModelConfig) -> int:
    """Return the numbers that one layer holds of a token while it reads, of the largest layer."""
    layers = [model.layer(index) for index in range(model.layers)] or [model]
    return max(_attention(layer) + _mlp(layer) for layer in layers)
