"""Estimate the memory of training by formulas, part by part, where a dry run would take too long.

What autograd keeps is counted layer by layer, as `flyweight.model` computes it. Everything counts
at its largest at the same time, as the allocator seldom gives back what one moment needed before
the next. benchmarks/bench_plan_memory.py compares it with what training really takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.config.units import format_size
from flyweight.data.streams.order import BLOCK_BYTES
from flyweight.data.streams.windows import AHEAD
from flyweight.spec import flops, flops_baselines
from flyweight.spec.adapters import sites
from flyweight.spec.chunks import PIECE_CPU, chunk_rows
from flyweight.spec.visits import mixes_values, stack_size, unet_sources, visits
from flyweight.spec.windows import query_blocks, scores
from flyweight.store.budget import LIBRARIES

STATE_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1 + 4 / 256}
"""Bytes of a number of an optimizer's state, with its share of a block's scale."""

DOCUMENT = 4_000
"""Bytes of a document of a stream, where nobody has read any."""

LOGITS_AT_ONCE = 2**23
"""Logits that a validation makes at once (see evaluate.likelihood)."""

PIECE_COPIES, DISTILLED_COPIES = 4, 10
"""Float32 numbers held for one logit of a piece, with its log-probability and gradient.

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
class PlannedMemory:
    """Peak training memory in bytes, by part.

    `copies` are the weights once more in the compute dtype, `libraries` what the process loads for
    training. `masks` say what tokens attend to, where not simply to all earlier ones. A dry run
    counts masks and copies among the activations, and in `head` what its largest moment holds
    beside all other parts. `text` is what is read ahead of a stream.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    teacher: int = 0
    copies: int = 0
    libraries: int = 0
    masks: int = 0
    text: int = 0
    method: Literal["formula", "dry-run"] = "formula"

    @property
    def parts(self) -> dict[str, int]:
        """The bytes by the name of their part."""
        return {name: size for name, size in vars(self).items() if name != "method"}

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())


def stream_bytes(stream: Stream) -> int:
    """Return about what is held of a stream: a block of documents, once more in order, and tokens.

    Documents of unknown length are taken for 4 kB each.
    """
    return 2 * min(BLOCK_BYTES, DOCUMENT * stream.shuffle) + 4 * AHEAD


def training(
    model: schema.Architecture,
    train: schema.Train,
    context: int,
    itemsize: int = 4,
    teacher: schema.Architecture | None = None,
    device: str = "cpu",
    isolated: bool = False,
    trains: schema.TrainedPart = "full",
) -> PlannedMemory:
    """Return the memory of training a part of `model` on windows of `context` tokens.

    `itemsize` is the compute dtype's; weights take 4 bytes, or 2 where they train in bfloat16.
    Activations are what autograd keeps of every block for one micro-batch: the inputs of each
    matrix, each norm and attention.
    `isolated` documents see nothing of each other, which takes masks.
    """
    unique = flops.parameters(model).unique
    trained = flops.trained_parameters(model, trains)
    states = 2 * trained
    if isinstance(train.optimizer, schema.Muon):
        states -= flops.muon_parameters(model, trains)
    averages = 0 if train.average is None else 4 * trained
    rows = train.batch // train.accumulate
    held = 2 if train.memory.weights == "bf16" else 4
    cpu = device == "cpu"
    in_backward = train.memory.step == "backward"
    kept = (
        rows
        * context
        * kept_bytes(
            model, context, itemsize, cpu, isolated, trains, train.memory.recompute == "blocks"
        )
    )
    if trains == "frozen" and isinstance(model, schema.ModelConfig):
        kept = read_only_bytes(model, rows * context, itemsize)
    return PlannedMemory(
        weights=flops.weight_bytes(model, held),
        gradients=held * (_held_at_once(model, trained) if in_backward else trained),
        optimizer=int(STATE_BYTES[train.memory.states] * states) + averages,
        activations=kept,
        head=_head(model, train, context, itemsize, teacher is not None, trains),
        teacher=_teacher(teacher, rows, context, itemsize, isolated) if teacher else 0,
        copies=itemsize * unique if itemsize < held else 0,
        libraries=LIBRARIES if cpu else 0,
        masks=mask_bytes(model, rows, context, itemsize, isolated),
    )


def beneath_all(limit: float, libraries: int = LIBRARIES) -> str:
    """Return why no training holds to a limit of memory, however small; empty where one may.

    `libraries` are the bytes that they take on the device.
    """
    if limit > libraries:
        return ""
    return (
        f"every training here takes more than {format_size(libraries)}, which its libraries load "
        f"before there is a model"
    )


def _held_at_once(model: schema.Architecture, trained: int) -> int:
    """Return the numbers of the gradients that are there at once where each is dropped when used.

    They are those of the embedding and of a layer.
    """
    if not isinstance(model, schema.ModelConfig):
        return trained
    parts = flops.parameters(model).by_part
    layer = max(1, model.layers)
    body = sum(size for part, size in parts.items() if part not in ("embedding", "head"))
    return min(trained, parts.get("embedding", 0) + body // layer)


def kept_bytes(
    model: schema.Architecture,
    context: int,
    itemsize: int,
    cpu: bool,
    isolated: bool = False,
    trains: schema.TrainedPart = "full",
    recompute: bool = False,
) -> int:
    """Return the bytes that autograd keeps of one token, without masks.

    Where adapters alone train, nothing is kept before the first of them, and not what frozen
    matrices read. Where blocks `recompute`, they are what goes into each visit, and all that is
    kept of the largest.
    """
    if not isinstance(model, schema.ModelConfig):
        return flops_baselines.activations(model) * itemsize
    stream = 4 * model.dim  # the residual stream is float32 in every precision
    ends = (
        2 * stream
        + 2 * model.dim * itemsize
        + (stream if model.embedding.bigram.kind != "none" else 0)
    )
    ends += model.dim if model.dropout.embedding else 0
    ends += _rotation(model, itemsize) if isolated else 0
    every = 2 * stream + 2 * model.dim * itemsize
    every += 2 * stream if isinstance(model.residual, schema.Alpha) else 0
    every += _dropped(model)
    layers = [model.layer(index) for index in range(model.layers)]
    blocks = [every + itemsize * (_attention(layer) + _mlp(layer)) for layer in layers]
    for index, layer in enumerate(layers):
        blocks[index] += itemsize * _kv(layer) * mixes_values(model, index)
    for index, layer in enumerate(layers):
        blocks[index] += itemsize * _adapted(model, index)
        if trains == "adapters":
            blocks[index] -= itemsize * (2 * model.dim + (layer.mlp.hidden or 0))
    total = ends + stream * _skipped(model, recompute)
    largest = 0
    adapted = {site.block for site in sites(model)}
    reached = trains != "adapters"
    for visit in visits(model):
        reached = reached or visit.layer in adapted
        if not reached:
            continue
        layer = layers[visit.layer]
        keys = max(1, visit.keys_per_token)
        causal = keys == 1 and not isolated
        visited = blocks[visit.layer] + _scores(layer, context, keys, itemsize, cpu and causal)
        visited += itemsize * _copied_keys(layer, context, keys)
        if keys == 2:  # the memory's, beside a pass's own
            visited += 4 * _kv(layer) * itemsize
        largest = max(largest, visited)
        total += visited if not recompute else stream + (keys - 1) * 2 * _kv(layer) * itemsize
    return total + (largest if recompute else 0)


def _skipped(model: schema.ModelConfig, recompute: bool) -> int:
    """Return how many residual streams are kept for skips beside what layers keep anyway."""
    passes = len({visit.pass_ for visit in visits(model)})
    kept = 0
    if "embedding" in model.skips:
        kept += 1 + (stack_size(model) - 1) * passes
    if recompute and "unet" in model.skips:
        kept += len(unet_sources(model)) * passes
    return kept


def _rotation(model: schema.ModelConfig, itemsize: int) -> int:
    """Return the bytes of a token's cosines and sines, where rows have positions of their own."""
    if not isinstance(model.position, schema.Rope):
        return 0
    sizes = {model.layer(index).attention.head_dim or 0 for index in range(model.layers)}
    return sum(2 * int(size * model.position.fraction) for size in sizes) * itemsize


def mask_bytes(
    model: schema.Architecture, rows: int, context: int, itemsize: int, isolated: bool = False
) -> int:
    """Return the bytes of all masks of `rows` windows.

    Layers that look equally far share a mask. It is held as bool and as numbers to add to scores.
    Without isolated documents all rows have the same. A prefix in front of the keys is in each.
    """
    if not isinstance(model, schema.ModelConfig):
        return 0
    prefix = model.first_position
    areas = dict[tuple[int | None, int, int, bool], int]()
    for visit in visits(model):
        attention = model.layer(visit.layer).attention
        window = attention.window
        if window is not None and context <= window:
            window = None
        for keys in range(
            1, visit.keys_per_token + 1
        ):  # two keys a token take their mask from that of one
            used = keys == visit.keys_per_token or not prefix
            whole = isolated or (used and prefix > 0)
            area = keys * _masked(attention, context, whole, keys) + used * context * prefix
            key = (window, attention.sinks if window else 0, keys, used)
            areas[key] = area * (1 + used * itemsize)
    return (rows if isolated else 1) * sum(areas.values())


def _masked(attention: schema.Attention, context: int, whole: bool, keys: int) -> int:
    """Return how many scores of a window have a mask; causal attention needs none of its own.

    `whole`: there is one all the same, for documents or a prefix.
    """
    window = attention.window
    if window is None or context <= window:
        return context**2 if whole or keys == 2 else 0
    area = scores(attention, context)
    if whole or keys == 2:
        return area
    first = query_blocks(0, context, window, attention.sinks)[0]
    return area - (first.stop**2 if first.stop <= window else 0)


def _copied_keys(model: schema.ModelConfig, context: int, keys: int) -> int:
    """Return the numbers of a token's keys and values that are there once more.

    They stand beside sinks and behind a prefix, which every row and block has in front of its own.
    """
    attention, prefix = model.attention, model.first_position
    if attention.window is None or context <= attention.window:
        return -(-2 * _kv(model) * prefix // context)
    blocks = query_blocks(0, context, attention.window, attention.sinks)
    copied = sum(
        keys * (block.stop - block.first + block.sinks) + prefix
        for block in blocks
        if block.sinks or prefix
    )
    if prefix:  # nothing else needs the keys that were copied
        copied -= keys * context
    return 2 * _kv(model) * copied // context


def _attention(model: schema.ModelConfig) -> int:
    """Return the numbers kept of a token's queries, keys, values and attention's output."""
    attention = model.attention
    assert attention.heads and attention.head_dim
    q, kv = attention.heads * attention.head_dim, _kv(model)
    kept = 3 * q + 2 * kv + attention.heads
    kept += q + kv if attention.qk_norm else 0
    kept += q if attention.gain else 0
    kept += q + 2 * attention.heads if attention.gate else 0
    return kept


def _kv(model: schema.ModelConfig) -> int:
    assert model.attention.kv_heads and model.attention.head_dim
    return model.attention.kv_heads * model.attention.head_dim


def _scores(model: schema.ModelConfig, context: int, keys: int, itemsize: int, plain: bool) -> int:
    """Return the bytes kept of a token's attention weights, where the kernel keeps them at all.

    `plain` attention on a CPU looks at all earlier tokens, with one key each.
    """
    assert model.attention.heads
    window = model.attention.window
    whole = window is None or context <= window
    dropped = bool(model.dropout.attention)
    written_out = plain and itemsize == 2 and context <= WRITTEN_OUT and whole
    if not (dropped or written_out):
        return 0
    seen = keys * scores(model.attention, context) // context  # keys that a token looks at
    seen += model.first_position  # those of a prefix
    size = itemsize * (1 + dropped) + dropped  # the weights, what is left of them, and the mask
    return model.attention.heads * seen * size


def _mlp(model: schema.ModelConfig) -> int:
    assert model.mlp.hidden
    matrices = 3 if model.mlp.kind in schema.GATED else 2
    return MLP_KEPT[model.mlp.kind] * model.mlp.hidden + matrices * (model.mlp.rank or 0)


def _adapted(model: schema.ModelConfig, block: int) -> int:
    """Return the numbers that a block's adapters keep of a token.

    They are what the adapters read, once where several read the same, and what is between their
    matrices or is multiplied by their factors. A prefix in front of keys is not among them.
    """
    layer = model.layer(block)
    q = (layer.attention.heads or 0) * (layer.attention.head_dim or 0)
    inputs: dict[str, int] = {}
    kept = 0
    for site in sites(model):
        if site.block != block:
            continue
        adapter = site.adapter
        match adapter:
            case schema.Lora():
                inputs[_input_of(site.name)] = site.reads
                kept += adapter.r + (site.reads if adapter.dropout else 0)
                kept += 2 * site.writes if adapter.dora else 0
            case schema.Ia3():
                kept += site.reads if site.scales_input else site.writes
            case schema.Bottleneck():
                kept += site.width + 2 * adapter.dim
            case schema.Prefix(softmax="shared"):
                pass
            case schema.Prefix():
                kept += (3 if isinstance(model.position, schema.Rope) else 2) * q
    return kept + sum(inputs.values())


def _input_of(name: str) -> str:
    """Return a name of what a matrix reads: q, k and v read the same, and so do gate and up."""
    branch, _, matrix = name.split(".", 2)[2].partition(".")
    return name if matrix.startswith(("out", "down")) or "expand" in matrix else branch


def _dropped(model: schema.ModelConfig) -> int:
    """Return the bytes of the masks that dropout keeps: of both branches and the MLP's input."""
    dropout = model.dropout
    return model.dim * (2 * bool(dropout.residual) + bool(dropout.mlp))


def _head(
    model: schema.Architecture,
    train: schema.Train,
    context: int,
    itemsize: int,
    distilled: bool,
    trains: schema.TrainedPart,
) -> int:
    """Return the bytes of head and loss.

    They are a chunk's logits (a teacher's too), the hidden states with their gradient, and the
    head's where that does not become the parameter's own: beside an earlier micro-batch's, or in
    float32 before it is rounded to bfloat16.
    """
    vocab = model.vocab_size
    assert vocab
    width = (
        model.dim if isinstance(model, schema.ModelConfig) else flops_baselines.head_width(model)
    )
    tokens = train.batch // train.accumulate * context
    rows = min(tokens, chunk_rows(vocab))
    chunks = itemsize * (2 if distilled else 1) * rows * vocab
    copies = DISTILLED_COPIES if distilled else PIECE_COPIES
    pieces = 4 * copies * min(rows * vocab, max(PIECE_CPU, vocab))
    apart = train.accumulate > 1 or train.memory.weights == "bf16"
    head = 4 * vocab * width if apart and trains != "adapters" else 0
    training_step = chunks + pieces + head + 2 * tokens * width * itemsize
    return max(training_step, validation_bytes(model, train, context) if train.validations else 0)


def validation_bytes(model: schema.Architecture, train: schema.Train, context: int) -> int:
    """Return the bytes of the logits that a validation makes at once, with their probabilities."""
    vocab = model.vocab_size
    assert vocab
    rows = train.batch // train.accumulate
    at_once = min(rows * context, train.validation_tokens, max(1, LOGITS_AT_ONCE // vocab))
    return 2 * 4 * at_once * vocab


def _teacher(
    teacher: schema.Architecture, rows: int, context: int, itemsize: int, isolated: bool
) -> int:
    """Return the bytes of a teacher.

    They are its weights, also in the compute dtype, its masks, and what one layer holds while it
    reads.
    """
    weights = flops.weight_bytes(teacher)
    copies = itemsize * flops.parameters(teacher).unique if itemsize < 4 else 0
    tokens = rows * context
    if not isinstance(teacher, schema.ModelConfig):
        return weights + copies + tokens * flops_baselines.activations(teacher) * itemsize
    held = read_only_bytes(teacher, tokens, itemsize)
    return weights + copies + held + mask_bytes(teacher, rows, context, itemsize, isolated)


def read_only_bytes(model: schema.ModelConfig, tokens: int, itemsize: int) -> int:
    """Return the bytes that a model holds while it reads tokens and keeps nothing for gradients."""
    streams = 3 + ("embedding" in model.skips)
    streams += len(unet_sources(model)) if "unet" in model.skips else 0
    return tokens * (streams * 4 * model.dim + itemsize * _largest_layer(model))


def _largest_layer(model: schema.ModelConfig) -> int:
    """Return the numbers that one layer holds of a token while it reads, of the largest layer."""
    layers = [model.layer(index) for index in range(model.layers)] or [model]
    return max(_attention(layer) + _mlp(layer) for layer in layers)
