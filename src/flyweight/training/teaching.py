"""What a teacher predicts for a batch, and how far a student's predictions are from it.

The teacher runs beside the student, or has told its likeliest tokens before
(`flyweight.data.told`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config import schema
from flyweight.data.batch import Batch

Compared = Callable[[slice, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows of the chunk, log_q (n, V), targets (n, 1)) -> (divergence (n,), grad_logits (n, V)).

The gradient is by the student's logits over the temperature.
"""

SMALLEST_REST = 1e-7
"""The least probability of the tokens that a teacher has not told."""


class Reader(Protocol):
    """What a loss needs of a teacher: see `flyweight.checkpoints.load_any.AnyModel`."""

    def hidden(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        """Return the hidden states (B, T, D) of tokens (B, T), which may belong to `documents`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the final logits (..., V) of hidden states (..., D)."""
        ...


class Teaching(Protocol):
    """What a teacher predicts for a batch, a chunk of positions at a time."""

    def of(self, chunk: slice) -> Compared:
        """Return how a student is compared with it on a chunk: products with few rows are slow."""
        ...


class RunningTeaching:
    """A teacher that reads the batch now."""

    def __init__(
        self, config: schema.Distillation, batch: Batch, teacher: Reader, tokens: int | None
    ) -> None:
        self.config, self.teacher, self.tokens = config, teacher, tokens
        with torch.no_grad():
            self._hidden = hidden_states(teacher, batch)  # (N, D of the teacher)

    def of(self, chunk: slice) -> Compared:
        """Return how a student is compared with the teacher on a chunk."""
        device = self._hidden.device.type
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device)):
            logits = self.teacher.logits(self._hidden[chunk])[:, : self.tokens]  # (n, V)

        def compared(rows: slice, log_q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            taught = logits[rows].float()
            if self.config.temperature != 1:
                taught = taught / self.config.temperature
            log_p = F.log_softmax(taught, dim=-1)  # (n, V)
            if self.config.shuffled:
                log_p = shuffled(log_p, targets)
            return DIVERGENCES[self.config.divergence](log_p, log_q, self.config.beta)

        return compared


class RecordedTeaching:
    """A teacher's likeliest tokens, told beforehand at the objective's temperature."""

    def __init__(self, config: schema.Distillation, batch: Batch) -> None:
        assert batch.teacher is not None
        self.config = config
        self._tokens = batch.teacher.tokens.flatten(0, 1)  # (N, k)
        self._log_probs = batch.teacher.log_probs.flatten(0, 1)

    def of(self, chunk: slice) -> Compared:
        """Return how a student is compared with the record on a chunk."""

        def compared(rows: slice, log_q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            tokens, log_p = self._tokens[chunk][rows], self._log_probs[chunk][rows]  # (n, k)
            if tokens.shape[1] == log_q.shape[1]:
                whole = torch.empty_like(log_q).scatter_(1, tokens, log_p)
                log_p = F.log_softmax(whole, dim=-1)
                return DIVERGENCES[self.config.divergence](log_p, log_q, self.config.beta)
            if self.config.rest == "renormalise":
                return _renormalised(tokens, log_p, log_q)
            return _bucketed(self.config, tokens, log_p, log_q)

        return compared


def hidden_states(model: Reader, batch: Batch) -> Tensor:
    """Return a model's hidden states of all inputs of a batch, each of its own document, (N, D)."""
    if batch.documents is None:
        return model.hidden(batch.inputs).flatten(0, 1)
    return model.hidden(batch.inputs, documents=batch.documents).flatten(0, 1)


def shuffled(log_p: Tensor, targets: Tensor) -> Tensor:
    """Return the probabilities (n, V) of other tokens, but for those of the targets (n, 1).

    All positions are shuffled alike, by an order that depends on V alone.
    """
    size = log_p.shape[1]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(size)).to(log_p.device)
    mixed, place = log_p[:, order], order.argsort()[targets]  # (n, V), (n, 1)
    displaced = mixed.gather(1, targets)
    return mixed.scatter(1, place, displaced).scatter(1, targets, log_p.gather(1, targets))


def _renormalised(tokens: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(p || q) with p summing to 1 over the told tokens, and its gradient q - p."""
    log_p = log_p.log_softmax(-1)  # (n, k)
    p = log_p.exp()
    divergence = (p * (log_p - log_q.gather(1, tokens))).sum(-1)
    return divergence, log_q.exp().scatter_add_(1, tokens, -p)


def _bucketed(
    config: schema.Distillation, tokens: Tensor, log_p: Tensor, log_q: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the divergence with all tokens that were not told as one more, and its gradient.

    That one's logit moves with each of them by its share of their probability.
    """
    rest_p = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(SMALLEST_REST).log()
    others = log_q.scatter(1, tokens, -torch.inf)  # (n, V)
    rest_q = others.logsumexp(-1, keepdim=True)
    coarse_p = torch.cat((log_p, rest_p), 1).log_softmax(-1)  # (n, k + 1)
    coarse_q = torch.cat((log_q.gather(1, tokens), rest_q), 1)
    divergence, slopes = DIVERGENCES[config.divergence](coarse_p, coarse_q, config.beta)
    gradient = others.sub_(rest_q).exp_().mul_(slopes[:, -1:])
    return divergence, gradient.scatter_(1, tokens, slopes[:, :-1])


def _forward_kl(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return KL(p || q) by row and its gradient by the logits of q: q - p."""
    p, q = log_p.exp(), log_q.exp()
    return _expectation(p, log_p, log_q), q.sub_(p)


def _reverse_kl(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return KL(q || p) by row and its gradient by the logits of q: q * (log q - log p - KL)."""
    q = log_q.exp()
    kl_q_p = _expectation(q, log_q, log_p)
    return kl_q_p, (log_q - log_p).sub_(kl_q_p.unsqueeze(1)).mul_(q)


def _jsd(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the generalised Jensen-Shannon divergence by row and its gradient.

    The gradient is (1 - beta) q (log q - log m - KL(q || m)).
    """
    log_beta = torch.tensor([beta, 1 - beta], device=log_p.device).log()
    log_m, q = torch.logaddexp(log_p + log_beta[0], log_q + log_beta[1]), log_q.exp()
    kl_q_m = _expectation(q, log_q, log_m)
    divergence = beta * _expectation(log_p.exp(), log_p, log_m) + (1 - beta) * kl_q_m
    grad_logits = (log_q - log_m).sub_(kl_q_m.unsqueeze(1)).mul_(q).mul_(1 - beta)
    return divergence, grad_logits


def _expectation(probs: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return sum(probs * (log a - log b)) by row: (n, V) -> (n,)."""
    return (log_a - log_b).mul_(probs).sum(-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
}
"""(log_p (n, V), log_q (n, V), beta) -> (divergence (n,), grad_logits (n, V)).

p is the teacher's distribution and q the student's. The divergence is by row; its gradient is by
the student's logits.
"""
