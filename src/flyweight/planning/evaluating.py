"""The memory of an evaluation, by a formula that holds everything of a layer at once.

An evaluation reads some windows in float32 and keeps nothing for gradients. What it holds are the
weights, the numbers of the largest layer, and the logits of some tokens with their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

from flyweight.config import schema
from flyweight.planning.memory import LOGITS_AT_ONCE, mask_bytes, read_only_bytes
from flyweight.spec import flops, flops_baselines
from flyweight.spec.chunks import TOKENS_AT_ONCE, WINDOW
from flyweight.spec.visits import visits
from flyweight.store.budget import LIBRARIES

WINDOWS_AT_ONCE = schema.Evaluate.model_fields["batch"].default
"""Windows that an evaluation reads at once where nothing limits its memory."""

FLOAT = 4


def evaluation_bytes(
    model: schema.Architecture,
    batch: int = WINDOWS_AT_ONCE,
    window: int | None = None,
    device: str = "cpu",
) -> int:
    """Return the bytes of an evaluation that reads `batch` windows at once.

    They are those over the interpreter with its imports. `window` is by default the one that an
    evaluation takes. Counts that are mixed in, and the packed text, are not among them.
    """
    window = window or min(model.context or WINDOW, WINDOW)
    tokens = batch * window
    assert model.vocab_size
    if isinstance(model, schema.ModelConfig):
        read = read_only_bytes(model, tokens, FLOAT) + _remembered(model, tokens)
        hidden = model.dim
    else:
        read = FLOAT * tokens * flops_baselines.activations(model)
        hidden = flops_baselines.head_width(model)
    rows = min(tokens, max(1, LOGITS_AT_ONCE // model.vocab_size))
    logits = 2 * FLOAT * (tokens * hidden + rows * model.vocab_size)
    masks = mask_bytes(model, batch, window, FLOAT)
    libraries = LIBRARIES if device == "cpu" else 0
    return flops.weight_bytes(model) + max(read, logits) + masks + libraries


def teaching_bytes(teachers: Sequence[schema.Architecture], context: int) -> int:
    """Return the bytes of teachers that tell of windows of `context` tokens, one after another."""
    weights = [flops.weight_bytes(teacher) for teacher in teachers]
    batch = max(1, TOKENS_AT_ONCE // context)
    known = [teacher for teacher in teachers if teacher.vocab_size]
    read = [
        evaluation_bytes(teacher, batch, context, "") - flops.weight_bytes(teacher)
        for teacher in known
    ]
    return sum(weights) + max(read, default=0)


def windows_at_once(model: schema.Architecture, limit: float | None, device: str = "cpu") -> int:
    """Return how many windows an evaluation reads at once to hold to a limit of memory, in bytes.

    They are as many as always where that fits; else half as many, and so on, down to one.
    """
    batch = WINDOWS_AT_ONCE
    while limit is not None and batch > 1 and evaluation_bytes(model, batch, None, device) > limit:
        batch //= 2
    return batch


def _remembered(model: schema.ModelConfig, tokens: int) -> int:
    """Return the bytes of the keys and values that later passes look at."""
    held = 0
    for visit in visits(model):
        attention = model.layer(visit.layer).attention
        assert attention.kv_heads and attention.head_dim
        held += 2 * (visit.keys_per_token - 1) * attention.kv_heads * attention.head_dim
    return FLOAT * tokens * held
