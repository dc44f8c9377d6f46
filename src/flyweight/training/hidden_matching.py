"""How far a student's hidden states are from its teacher's: see `config.training.HiddenMatching`.

Both measures are sums over real targets, so that a step in micro-batches makes the same update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.schema import HiddenMatching
from flyweight.data.batch import Batch, real_targets
from flyweight.model.decoder import Decoder

SMALLEST = 1e-12
"""The least squared length that a teacher's hidden state is divided by."""


@contextmanager
def watched(model: Decoder, places: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Gather the residual stream (B, T, dim) behind some places while a decoder runs."""
    seen = dict[int, Tensor]()

    def note(place: int, stream: Tensor) -> None:
        if place in places:
            seen[place] = stream

    model.watched = note
    try:
        yield seen
    finally:
        model.watched = None


def distance(
    hidden: HiddenMatching, student: dict[int, Tensor], teacher: dict[int, Tensor], batch: Batch
) -> Tensor:
    """Return the weighted distance of the places that the student ran, summed over real targets.

    Both hold streams (B, T, dim) by place. The result is a float32 scalar.
    """
    real = real_targets(batch.targets, batch.weights).float()  # (B, T)
    weights = real if batch.weights is None else real * batch.weights.float()
    total = weights.new_zeros(())
    for own, place in hidden.places.items():
        if own in student:
            measure = values if hidden.by == "values" else relations
            found = measure(student[own], teacher[place], batch.documents)  # (B, T)
            total = total + (found * weights).sum()
    return hidden.weight * total


def values(student: Tensor, teacher: Tensor, documents: Tensor | None = None) -> Tensor:
    """Return |student - teacher|^2 / |teacher|^2 of each token: two (B, T, D) -> (B, T)."""
    student, teacher = student.float(), teacher.float()
    length = teacher.square().sum(-1).clamp_min(SMALLEST)
    return (student - teacher).square().sum(-1) / length


def relations(student: Tensor, teacher: Tensor, documents: Tensor | None = None) -> Tensor:
    """Return KL(teacher || student) of each token's relations, (B, T, D) and (B, T, E) -> (B, T).

    A token's relations are a softmax over the tokens before it in its document, of cosines times
    the root of E. The first token of a document has none, and counts 0.
    """
    length = student.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=student.device).tril(-1)
    if documents is not None:
        before = before & (documents.unsqueeze(2) == documents.unsqueeze(1))  # (B, T, T)
    scale = teacher.shape[-1] ** 0.5
    log_q, log_p = (_log_relations(stream, scale, before) for stream in (student, teacher))
    return ((log_p - log_q) * log_p.exp() * before).sum(-1)


def _log_relations(stream: Tensor, scale: float, before: Tensor) -> Tensor:
    """Return the logarithms of a stream's relations, (B, T, T); any number where there are none."""
    unit = F.normalize(stream.float(), dim=-1)
    scores = scale * unit @ unit.transpose(1, 2)  # (B, T, T)
    none = ~before.any(-1, keepdim=True)
    return F.log_softmax(scores.masked_fill(~(before | none), -1e9), dim=-1)
