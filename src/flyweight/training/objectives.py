"""What training minimises: next-token cross-entropy and distillation, summed over real targets.

The head and the loss are computed together, a few tokens at a time, so that [tokens x vocabulary]
never exists in float32 together with its gradient. Each chunk's gradient is taken while its logits
exist, and backward has nothing left to do but scale. The products are the same as in the plain
version (ADR 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config import schema
from flyweight.data.batch import Batch, real_targets

CHUNK_ELEMENTS = 2**22
"""Logits held at once (17 MB in float32), as long as that makes CHUNK_ROWS tokens."""

CHUNK_ROWS = 128
"""Tokens in a chunk at least: with fewer, products with the head fall to half their speed."""

HEAD_ROWS = 4096
"""Rows of the head whose gradient is added at once in half precision."""

ChunkLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor, Tensor | None]]
"""(raw float32 logits (n, V), rows, needs_grad) -> (summed loss, summed NLL, grad_logits (n, V)).

Loss and NLL count real targets only. `grad_logits` is the gradient of the loss by the raw logits,
or None unless `needs_grad`; it may reuse their memory.
"""


@dataclass(frozen=True)
class LossSum:
    """What an objective sums over the real `targets` of a batch.

    `loss` is differentiable and weighted as the batch says; `nll` is the plain next-token NLL in
    nats. Whoever adds up several batches divides by the targets of all of them.
    """

    loss: Tensor
    nll: Tensor
    targets: int


class LanguageModel(Protocol):
    """What an objective needs of a model: see `flyweight.model.build`."""

    softcap: float | None

    def hidden(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        """Return the hidden states (B, T, D) of tokens (B, T), which may belong to `documents`."""
        ...

    def output(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what the head reads (..., K), its matrix (V, K) and its bias (V).

        All are differentiable.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the final logits (..., V) of hidden states (..., D)."""
        ...


class Objective(Protocol):
    """(model, batch) -> the loss and the NLL, summed over the batch's real targets."""

    def __call__(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of one batch."""
        ...


class _ChunkedHead(torch.autograd.Function):
    """Head product and loss over chunks of tokens.

    The gradients of hidden states and head are taken on the way.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss_of: ChunkLoss,
        chunk_rows: int,
        needs_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        # hidden (N, K), weight (V, K), both in the compute dtype, bias (V)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nll = torch.zeros_like(loss)
        grad_hidden, grad_weight, grad_bias = None, None, None
        if needs_grad:
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            if bias is not None:
                grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, hidden.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = (hidden[rows] @ weight.T).float()
            if bias is not None:
                logits = logits.add_(bias)
            chunk_loss, chunk_nll, grad_logits = loss_of(logits, rows, needs_grad)
            if grad_logits is not None and grad_hidden is not None and grad_weight is not None:
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(0)
                grad_logits = grad_logits.to(hidden.dtype)  # (n, V)
                torch.mm(grad_logits, weight, out=grad_hidden[rows])
                _add_product(grad_weight, grad_logits, hidden[rows])
            loss += chunk_loss
            nll += chunk_nll
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_loss = grads[0]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        if grad_bias is not None:
            grad_bias = grad_bias * grad_loss
        return (
            grad_hidden * grad_loss.to(grad_hidden.dtype),
            grad_weight * grad_loss,
            grad_bias,
            None,
            None,
            None,
        )


def _add_product(total: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
    """Add grad_logits^T hidden, (n, V) and (n, D), to the float32 `total` (V, D).

    In half precision the product is taken a few thousand rows at a time: it has to be widened
    before it is added, and a temporary copy of the whole head, which no cache holds, took three
    times as long as the product itself.
    """
    if hidden.dtype == torch.float32:
        total.addmm_(grad_logits.T, hidden)
        return
    for start in range(0, total.shape[0], HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        total[rows] += grad_logits[:, rows].T @ hidden


def chunked(
    hidden: Tensor, weight: Tensor, loss_of: ChunkLoss, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (loss, nll) of `loss_of`, summed over all rows of `hidden` (N, K).

    The head is `weight` (V, K) with `bias` (V). Under autocast the products run in its dtype and
    the loss in float32, as in the plain version.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    chunk_rows = max(CHUNK_ROWS, CHUNK_ELEMENTS // weight.shape[0])
    with torch.autocast(device, enabled=False):
        sums = _ChunkedHead.apply(
            hidden.to(dtype), weight.to(dtype), bias, loss_of, chunk_rows, needs_grad
        )
    assert isinstance(sums, tuple)
    return sums


def head_rows(
    weight: Tensor, bias: Tensor | None, tokens: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return the rows of a head (V, K) and its bias (V) that stand for tokens.

    They are the first `tokens` rows, or all of them.
    """
    if tokens is None or tokens >= weight.shape[0]:
        return weight, bias
    return weight[:tokens], None if bias is None else bias[:tokens]


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(logits / softcap), or the logits themselves without a cap."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _hidden(model: LanguageModel, batch: Batch) -> Tensor:
    """Return a model's hidden states of all inputs of a batch, each of its own document, (N, D)."""
    if batch.documents is None:
        return model.hidden(batch.inputs).flatten(0, 1)
    return model.hidden(batch.inputs, documents=batch.documents).flatten(0, 1)


def _sum_over_head(
    model: LanguageModel, batch: Batch, loss_of: ChunkLoss, tokens: int | None
) -> LossSum:
    """Return the sums of `loss_of` over a batch; only the head's rows for `tokens` take part."""
    read, weight, bias = model.output(_hidden(model, batch))
    weight, bias = head_rows(weight, bias, tokens)
    loss, nll = chunked(read, weight, loss_of, bias)
    return LossSum(loss, nll, batch.real_targets)


class NextToken:
    """Cross-entropy of the next token, in nats.

    `tokens` is the size of the vocabulary where the head has more rows than that; they take no part
    in the softmax.
    """

    def __init__(self, config: schema.NextToken, tokens: int | None = None) -> None:
        self.config = config
        self.tokens = tokens

    def __call__(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of one batch; without weights, loss and NLL are the same number."""

        def loss_of(
            logits: Tensor, rows: slice, needs_grad: bool
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            targets = _TargetChunk(batch, rows)
            logits = capped(logits, model.softcap)
            log_probs = F.log_softmax(logits, dim=-1)  # (n, V)
            loss, nll = targets.cross_entropy(log_probs)
            if not needs_grad:
                return loss, nll, None
            grad_logits = targets.grad_cross_entropy(log_probs)
            return loss, nll, targets.finish_gradient(grad_logits, logits, model.softcap)

        return _sum_over_head(model, batch, loss_of, self.tokens)


class Distillation:
    """weight * T^2 * divergence(teacher, student at temperature T) + (1 - weight) * cross-entropy.

    Forward KL is KL(teacher || student) (Hinton et al. 2015). Reverse KL is KL(student || teacher).
    `jsd` is the generalised Jensen-Shannon divergence beta * KL(p || m) + (1 - beta) * KL(q || m),
    m = beta * p + (1 - beta) * q (Agarwal et al. 2024). Teacher and student see the same inputs.
    Their predictions for one position are compared before any shift, and the targets are the next
    tokens, so that nothing is off by one.

    `tokens` is the size of the vocabulary where a head has more rows than that; both softmaxes run
    over the tokens alone. A batch that holds the teacher's hidden states saves running its body.
    """

    def __init__(
        self, config: schema.Distillation, teacher: LanguageModel, tokens: int | None = None
    ) -> None:
        self.config = config
        self.teacher = teacher
        self.tokens = tokens

    def __call__(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of one batch."""
        config, temperature = self.config, self.config.temperature
        teacher_hidden = self._teacher_hidden(batch)  # (N, D of the teacher)
        divergence_of = DIVERGENCES[config.divergence]
        device = teacher_hidden.device.type
        autocast = torch.is_autocast_enabled(device)

        def teacher_log_probs(rows: slice) -> Tensor:
            with torch.autocast(device, enabled=autocast):
                logits = self.teacher.logits(teacher_hidden[rows])[:, : self.tokens].float()
            if temperature != 1:
                logits = logits / temperature
            return F.log_softmax(logits, dim=-1)

        def loss_of(
            logits: Tensor, rows: slice, needs_grad: bool
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            targets = _TargetChunk(batch, rows)
            log_p = teacher_log_probs(rows)  # (n, V)
            logits = capped(logits, model.softcap)
            log_probs = F.log_softmax(logits, dim=-1)  # (n, V)
            cross_entropy, nll = targets.cross_entropy(log_probs)
            log_q = log_probs
            if temperature != 1:
                log_q = F.log_softmax(logits / temperature, dim=-1)
            divergence, grad_logits = divergence_of(log_p, log_q, config.beta)  # (n,), (n, V)
            loss = config.weight * temperature**2 * targets.weighted_sum(divergence)
            loss = loss + (1 - config.weight) * cross_entropy
            if not needs_grad:
                return loss, nll, None
            grad_logits *= config.weight * temperature
            if config.weight < 1:
                grad_cross_entropy = targets.grad_cross_entropy(log_probs)
                grad_logits.add_(grad_cross_entropy, alpha=1 - config.weight)
            return loss, nll, targets.finish_gradient(grad_logits, logits, model.softcap)

        return _sum_over_head(model, batch, loss_of, self.tokens)

    @torch.no_grad()
    def _teacher_hidden(self, batch: Batch) -> Tensor:
        if batch.teacher is not None:
            return batch.teacher.hidden.flatten(0, 1)
        return _hidden(self.teacher, batch)


class _TargetChunk:
    """The targets (n,) of one chunk, and what cross-entropy and its gradient take from them.

    Gradients by the logits are written out (softmax minus one-hot and the like): fewer passes and
    buffers than autograd's. Which case applies is known without asking the device.
    """

    def __init__(self, batch: Batch, rows: slice) -> None:
        targets = batch.targets.reshape(-1)[rows]  # (n,)
        weights = None if batch.weights is None else batch.weights.reshape(-1)[rows].float()
        self.real: Tensor | None = None
        """Which targets count, (n,); None where all of the batch do."""
        self.weights = weights
        """What the loss of each target is multiplied by, (n,); None for 1 everywhere."""
        if not batch.all_real:
            self.real = real_targets(targets, weights)
            targets = torch.where(self.real, targets, 0)
            self.weights = self.real if weights is None else torch.where(self.real, weights, 0)
        self.index = targets.unsqueeze(1)  # (n, 1)

    def cross_entropy(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted loss and the plain NLL of log-probabilities (n, V), both summed."""
        picked = log_probs.gather(1, self.index).squeeze(1)  # (n,)
        nll = -(picked.sum() if self.real is None else (picked * self.real).sum())
        if self.weights is self.real:
            return nll, nll
        return -self.weighted_sum(picked), nll

    def weighted_sum(self, values: Tensor) -> Tensor:
        """Return the weighted sum of one value (n,) a target."""
        return values.sum() if self.weights is None else (values * self.weights).sum()

    def grad_cross_entropy(self, log_probs: Tensor) -> Tensor:
        """Return the NLL's gradient by the logits, unweighted, in the memory of `log_probs`."""
        minus_one = -torch.ones_like(self.index, dtype=log_probs.dtype)
        return log_probs.exp_().scatter_add_(1, self.index, minus_one)

    def finish_gradient(self, grad_logits: Tensor, logits: Tensor, softcap: float | None) -> Tensor:
        """Return `grad_logits` (n, V) by the logits before the cap, times the targets' weights.

        Uses up `logits`.
        """
        if softcap is not None:
            grad_logits *= 1 - (logits / softcap).square_()
        if self.weights is None:
            return grad_logits
        return grad_logits.mul_(self.weights.unsqueeze(1))


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
