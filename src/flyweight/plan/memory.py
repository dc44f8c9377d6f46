"""How much memory training will take, part by part; nothing is allocated to find out."""

from __future__ import annotations

from dataclasses import dataclass

from flyweight.config import schema
from flyweight.model import cost, cost_baselines
from flyweight.model.schedule import slots, visits

CHUNK_BYTES = 3 * 4 * 2**22
"""Logits of one chunk with their log-probabilities and gradient, in float32 (see train.objectives)."""


@dataclass(frozen=True)
class Memory:
    """Peak training memory in bytes, apart: what is there all the time and what a step adds."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    teacher: int = 0

    @property
    def total(self) -> int:
        """The sum: everything at its largest at the same time."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head + self.teacher


def training(
    model: schema.Architecture, train: schema.Train, context: int, itemsize: int = 4, teacher: schema.Architecture | None = None
) -> Memory:
    """Return the memory of training `model` on windows of `context` tokens; `itemsize` is the compute dtype's (weights stay 4).

    Activations are what autograd keeps of every block for one micro-batch: the inputs of each matrix, of each norm and of
    attention.
    """
    unique = cost.parameters(model).unique
    states = 2 * unique
    if isinstance(train.optimizer, schema.Muon):
        states -= _matrix_parameters(model)
    tokens = train.batch // train.accumulate * context
    per_token = _activations(model) if isinstance(model, schema.ModelConfig) else cost_baselines.activations(model)
    assert model.vocab_size
    width = model.dim if isinstance(model, schema.ModelConfig) else cost_baselines.head_width(model)
    head = min(CHUNK_BYTES, 12 * tokens * model.vocab_size) + 4 * model.vocab_size * width
    return Memory(
        weights=4 * unique,
        gradients=4 * unique,
        optimizer=4 * states,
        activations=tokens * per_token * itemsize,
        head=head,
        teacher=cost.weight_bytes(teacher) if teacher else 0,
    )


def _activations(model: schema.ModelConfig) -> int:
    assert model.attention.heads and model.attention.kv_heads and model.attention.head_dim and model.mlp.hidden
    q, kv = model.attention.heads * model.attention.head_dim, model.attention.kv_heads * model.attention.head_dim
    wide = (3 if model.mlp.kind in schema.GATED else 2) * (model.mlp.hidden + (model.mlp.rank or 0))
    doubled = sum(keys - 1 for keys in slots(model)) * 4 * kv  # a memory beside a pass's own keys and values
    return len(visits(model)) * (6 * model.dim + 3 * q + 4 * kv + wide + model.attention.heads) + doubled + 4 * model.dim


def _matrix_parameters(model: schema.Architecture) -> int:
    """Return the parameters of the blocks' matrices, for which Muon keeps one state instead of two."""
    parts = cost.parameters(model).by_part
    return sum(count for part, count in parts.items() if part in ("attention", "mlp", "lstm"))
