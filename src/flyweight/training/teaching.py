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

    def untold(self, chunk: slice) -> Compared | None:
        """Return the student's loss on what the teacher does not tell; None where it tells all.

        It is the cross-entropy of the next token among those that are one to the teacher, with its
        gradient by the logits. The first argument has the student's log-probabilities.
        """
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

    def untold(self, chunk: slice) -> None:
        """Return None: the teacher tells all."""


class RecordedTeaching:
    """A teacher's likeliest tokens, told beforehand at the objective's temperature.

    One with another tokenizer told of groups of tokens, and not at every position. The student's
    tokens are then compared by groups. Which token of a group is next, and which token at all where
    nothing was told, it learns from the text.
    """

    def __init__(self, config: schema.Distillation, batch: Batch) -> None:
        assert batch.teacher is not None
        self.config = config
        self.groups, self.shared = batch.teacher.groups, batch.teacher.shared
        self._tokens = batch.teacher.tokens.flatten(0, 1)  # (N, k)
        self._log_probs = batch.teacher.log_probs.flatten(0, 1)

    def of(self, chunk: slice) -> Compared:
        """Return how a student is compared with the record on a chunk."""

        def compared(rows: slice, log_q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return self._compared(
                self._tokens[chunk][rows], self._log_probs[chunk][rows], log_q, targets
            )

        def by_groups(rows: slice, log_q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            assert self.groups is not None
            tokens, log_p = self._tokens[chunk][rows], self._log_probs[chunk][rows]  # (n, k)
            told = self._told(log_p, targets)
            log_p = torch.where(told, log_p, 0)  # any numbers: what comes of them is left out
            log_groups = grouped(log_q, self.groups, self.shared)  # (n, G + 1)
            log_shared = log_groups[:, : self.shared].log_softmax(-1)
            divergence, slopes = self._compared(tokens, log_p, log_shared, self.groups[targets])
            slopes = F.pad(torch.where(told, slopes, 0), (0, 1))
            share = (log_q - log_groups[:, self.groups]).exp_()  # of a token in its group, (n, V)
            return torch.where(told.squeeze(1), divergence, 0), share.mul_(slopes[:, self.groups])

        return compared if self.groups is None else by_groups

    def untold(self, chunk: slice) -> Compared | None:
        """Return the loss on what groups do not tell, or on the next token where nothing was told.

        That is cross-entropy less the part of it which is about groups.
        """
        groups = self.groups
        if groups is None:
            return None

        def untold(rows: slice, log_probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            told, group = self._told(self._log_probs[chunk][rows], targets), groups[targets]
            log_groups = grouped(log_probs, groups, self.shared)  # (n, G + 1)
            log_all = log_groups[:, : self.shared].logsumexp(-1, keepdim=True)  # (n, 1)
            of_group = log_groups.gather(1, group)
            loss = torch.where(told, of_group - log_all, 0) - log_probs.gather(1, targets)
            gradient = log_probs.exp()  # (n, V)
            for part, sign, members in (
                (of_group, 1, groups == group),
                (log_all, -1, groups < self.shared),
            ):
                share = (log_probs - part).masked_fill_(~(told & members), -torch.inf)
                gradient.add_(share.exp_(), alpha=sign)
            minus_one = -torch.ones_like(targets, dtype=log_probs.dtype)
            return loss.squeeze(1), gradient.scatter_add_(1, targets, minus_one)

        return untold

    def _told(self, log_p: Tensor, targets: Tensor) -> Tensor:
        """Return where something was told, (n, 1): also of the target's group."""
        assert self.groups is not None
        return (log_p[:, :1] > -torch.inf) & (self.groups[targets] < self.shared)

    def _compared(
        self, tokens: Tensor, log_p: Tensor, log_q: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the divergence of tokens or groups from what was told, and its gradient."""
        if self.config.shuffled:
            tokens = shuffled_tokens(tokens, targets, log_q.shape[1])
        if tokens.shape[1] == log_q.shape[1]:
            whole = torch.empty_like(log_q).scatter_(1, tokens, log_p)
            log_p = F.log_softmax(whole, dim=-1)
            return DIVERGENCES[self.config.divergence](log_p, log_q, self.config.beta)
        if self.config.rest == "renormalise":
            return _renormalised(tokens, log_p, log_q)
        return _bucketed(self.config, tokens, log_p, log_q)


def grouped(log_probs: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the log-probabilities of groups, (n, count + 1), given those of tokens, (n, V).

    `groups` (V,) has the group of each token; the last one is of those that are in none. A group
    without tokens gets -inf.
    """
    index = groups.expand_as(log_probs)
    largest = log_probs.new_full((len(log_probs), count + 1), -torch.inf)
    largest = largest.scatter_reduce_(1, index, log_probs, "amax")
    sums = torch.zeros_like(largest)
    sums.scatter_add_(1, index, (log_probs - largest.gather(1, index)).exp_())
    return sums.log_().add_(largest)


def hidden_states(model: Reader, batch: Batch) -> Tensor:
    """Return a model's hidden states of all inputs of a batch, each of its own document, (N, D)."""
    if batch.documents is None:
        return model.hidden(batch.inputs).flatten(0, 1)
    return model.hidden(batch.inputs, documents=batch.documents).flatten(0, 1)


def shuffled(log_p: Tensor, targets: Tensor) -> Tensor:
    """Return the probabilities (n, V) of other tokens, but for those of the targets (n, 1).

    All positions are shuffled alike, by an order that depends on V alone.
    """
    order = _order(log_p.shape[1], log_p.device)
    mixed, place = log_p[:, order], order.argsort()[targets]  # (n, V), (n, 1)
    displaced = mixed.gather(1, targets)
    return mixed.scatter(1, place, displaced).scatter(1, targets, log_p.gather(1, targets))


def shuffled_tokens(tokens: Tensor, targets: Tensor, size: int) -> Tensor:
    """Return which tokens (n, k) of `size` get the told probabilities in a shuffled record.

    It is the order of `shuffled`: the target keeps its own.
    """
    place = _order(size, tokens.device).argsort()
    moved = torch.where(place[tokens] == targets, place[targets], place[tokens])
    return torch.where(tokens == targets, targets, moved)


def _order(size: int, device: torch.device) -> Tensor:
    """Return the order of a shuffled vocabulary."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(size)).to(device)


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
