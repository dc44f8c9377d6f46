"""What training minimises, chunked over tokens: never [tokens x vocabulary] in float32 with its gradient at once.

The head and the loss are computed together, a few tokens at a time. Each chunk's gradient is taken
while its logits exist, so that backward has nothing left to do but scale; the products are the same
as in the plain version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config import schema

IGNORE = -100
"""A target that counts nowhere."""

CHUNK_ELEMENTS = 2**22
"""Logits held at once (17 MB in float32), as long as that makes CHUNK_ROWS tokens."""

CHUNK_ROWS = 128
"""Tokens that a chunk has at least: with fewer of them the products with the head fall to half their speed."""

HEAD_ROWS = 4096
"""Rows of the head whose gradient is added at once in half precision."""

ChunkLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor, Tensor | None]]
"""(raw float32 logits (n, V), rows, whether a gradient is wanted) -> (summed loss, summed next-token NLL, slope (n, V)).

Loss and NLL count real targets only; the slope is the loss's gradient by the logits, and may reuse
their memory.
"""


class LanguageModel(Protocol):
    """What an objective needs of a model: see `flyweight.model.build`."""

    softcap: float | None

    def hidden(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        """Return the hidden states (B, T, D) of tokens (B, T), which may belong to `documents`."""
        ...

    def output(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what the head reads (..., K), its matrix (V, K) and its bias (V), all differentiable."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the final logits (..., V) of hidden states (..., D)."""
        ...


class Objective(Protocol):
    """(model, inputs (B, T), targets (B, T)) -> (loss, nll), each summed over the targets that are not IGNORE."""

    def __call__(
        self,
        model: LanguageModel,
        inputs: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed loss, differentiable, and the summed NLL in nats."""
        ...


class _ChunkedHead(torch.autograd.Function):
    """Head product and loss over chunks of tokens, with the gradients of hidden states and head taken on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss_of: ChunkLoss,
        rows: int,
        train: bool,
    ) -> tuple[Tensor, Tensor]:
        # hidden (N, K), weight (V, K), both in the compute dtype, bias (V)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nll = torch.zeros_like(loss)
        grad_hidden = torch.empty_like(hidden) if train else None
        grad_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if train else None
        )
        grad_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if train and bias is not None else None
        )
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = (hidden[part] @ weight.T).float()
            logits = logits if bias is None else logits.add_(bias)
            chunk_loss, chunk_nll, slope = loss_of(logits, part, train)
            if slope is not None and grad_hidden is not None and grad_weight is not None:
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
                slope = slope.to(hidden.dtype)  # (n, V)
                torch.mm(slope, weight, out=grad_hidden[part])
                _add_product(grad_weight, slope, hidden[part])
            loss += chunk_loss
            nll += chunk_nll
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        grad_bias = None if grad_bias is None else grad_bias * grads[0]
        return (
            grad_hidden * grads[0].to(grad_hidden.dtype),
            grad_weight * grads[0],
            grad_bias,
            None,
            None,
            None,
        )


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """Add slope^T hidden, (n, V) and (n, D), to the float32 `total` (V, D).

    In half precision the product is taken a few thousand rows at a time: it has to be widened
    before it is added, and a temporary copy of the whole head, which no cache holds, took three
    times as long as the product itself.
    """
    if hidden.dtype == torch.float32:
        total.addmm_(slope.T, hidden)
        return
    for start in range(0, total.shape[0], HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        total[rows] += slope[:, rows].T @ hidden


def chunked(
    hidden: Tensor, weight: Tensor, loss_of: ChunkLoss, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (loss, nll) of `loss_of` summed over all rows of `hidden` (N, K) under the head `weight` (V, K) and `bias` (V).

    Under autocast the products run in its dtype and the loss in float32, as in the plain version.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    train = torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (hidden, weight, bias)
    )
    rows = max(CHUNK_ROWS, CHUNK_ELEMENTS // weight.shape[0])
    with torch.autocast(device, enabled=False):
        result = _ChunkedHead.apply(hidden.to(dtype), weight.to(dtype), bias, loss_of, rows, train)
    assert isinstance(result, tuple)
    return result


def head_rows(
    weight: Tensor, bias: Tensor | None, tokens: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return the rows of a head (V, K) and its bias (V) that stand for tokens: all of them, or the first `tokens`."""
    if tokens is None or tokens >= weight.shape[0]:
        return weight, bias
    return weight[:tokens], None if bias is None else bias[:tokens]


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(logits / softcap), or the logits themselves without a cap."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _hidden(model: LanguageModel, inputs: Tensor, documents: Tensor | None) -> Tensor:
    """Return the hidden states (B * T, D) of inputs (B, T), each of its own document alone."""
    if documents is None:
        return model.hidden(inputs).flatten(0, 1)
    return model.hidden(inputs, documents=documents).flatten(0, 1)


class NextToken:
    """Cross-entropy of the next token, in nats.

    `tokens` is the size of the vocabulary where the head has more rows than that; they take no part
    in the softmax.
    """

    def __init__(self, config: schema.NextToken, tokens: int | None = None) -> None:
        self.config, self.tokens = config, tokens

    def __call__(
        self,
        model: LanguageModel,
        inputs: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (loss, nll) summed over real targets; here they are the same number."""
        flat = targets.reshape(-1)

        def loss_of(
            logits: Tensor, rows: slice, train: bool
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            wanted = _Wanted(flat[rows])
            logits = capped(logits, model.softcap)
            slope = F.log_softmax(logits, dim=-1)  # (n, V)
            nll = wanted.nll(slope)
            return (
                nll,
                nll,
                wanted.finished(wanted.slope(slope), logits, model.softcap) if train else None,
            )

        read, weight, bias = model.output(_hidden(model, inputs, documents))
        weight, bias = head_rows(weight, bias, self.tokens)
        return chunked(read, weight, loss_of, bias)


class Distillation:
    """weight * T^2 * divergence(teacher, student at temperature T) + (1 - weight) * cross-entropy of the next token.

    Forward KL is KL(teacher || student) (Hinton et al. 2015), reverse KL is KL(student || teacher),
    `jsd` is the generalised Jensen-Shannon divergence beta * KL(p || m) + (1 - beta) * KL(q || m),
    m = beta * p + (1 - beta) * q (Agarwal et al. 2024). Teacher and student see the same inputs;
    their predictions for one position are compared before any shift, and the targets are the next
    tokens, so that nothing is off by one. `tokens` is the size of the vocabulary where a head has
    more rows than that; both softmaxes run over the tokens alone.
    """

    def __init__(
        self, config: schema.Distillation, teacher: LanguageModel, tokens: int | None = None
    ) -> None:
        self.config, self.teacher, self.tokens = config, teacher, tokens

    def __call__(
        self,
        model: LanguageModel,
        inputs: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (mixed loss, nll) summed over real targets."""
        config, flat = self.config, targets.reshape(-1)
        with torch.no_grad():
            told = _hidden(self.teacher, inputs, documents)  # (N, D of the teacher)
        autocast = torch.is_autocast_enabled(told.device.type)

        def loss_of(
            logits: Tensor, rows: slice, train: bool
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            wanted, heat = _Wanted(flat[rows]), config.temperature
            with torch.autocast(told.device.type, enabled=autocast):
                teacher_logits = self.teacher.logits(told[rows])[:, : self.tokens].float()
            p = F.log_softmax(_cooled(teacher_logits, heat), dim=-1)  # (n, V)
            del teacher_logits
            logits = capped(logits, model.softcap)
            log = F.log_softmax(logits, dim=-1)
            nll = wanted.nll(log)
            q = log if heat == 1 else F.log_softmax(_cooled(logits, heat), dim=-1)
            apart, slope = DIVERGENCES[config.divergence](p, q, config.beta)  # (n,), (n, V)
            loss = config.weight * heat**2 * (apart * wanted.real).sum() + (1 - config.weight) * nll
            if not train:
                return loss, nll, None
            slope *= config.weight * heat
            if config.weight < 1:
                slope.add_(wanted.slope(log), alpha=1 - config.weight)
            return loss, nll, wanted.finished(slope, logits, model.softcap)

        read, weight, bias = model.output(_hidden(model, inputs, documents))
        weight, bias = head_rows(weight, bias, self.tokens)
        return chunked(read, weight, loss_of, bias)


class _Wanted:
    """The targets (n,) of one chunk, and what cross-entropy and its gradient take from them.

    Gradients by the logits are written out (softmax minus one-hot and the like): fewer passes and
    buffers than autograd's.
    """

    def __init__(self, targets: Tensor) -> None:
        self.real = targets != IGNORE  # (n,)
        self.index = torch.where(self.real, targets, 0).unsqueeze(1)  # (n, 1)

    def nll(self, log: Tensor) -> Tensor:
        """Return the NLL summed over real targets, of log-probabilities (n, V)."""
        return -(log.gather(1, self.index).squeeze(1) * self.real).sum()

    def slope(self, log: Tensor) -> Tensor:
        """Return the NLL's gradient by the logits, in the memory of `log` (n, V)."""
        return log.exp_().scatter_add_(1, self.index, -torch.ones_like(self.index, dtype=log.dtype))

    def finished(self, slope: Tensor, logits: Tensor, softcap: float | None) -> Tensor:
        """Return `slope` (n, V) by the logits before the cap, zero where a target counts nowhere.

        Uses up `logits`.
        """
        if softcap is not None:
            slope *= 1 - (logits / softcap).square_()
        return slope if self.real.all() else slope.mul_(self.real.unsqueeze(1))


def _cooled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def _forward_kl(p: Tensor, q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return KL(p || q) by row and its gradient by the logits of q: q - p."""
    at, to = p.exp(), q.exp()
    return _expected(at, p, q), to.sub_(at)


def _reverse_kl(p: Tensor, q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return KL(q || p) by row and its gradient by the logits of q: q * (log q - log p - KL)."""
    to = q.exp()
    apart = _expected(to, q, p)
    return apart, (q - p).sub_(apart.unsqueeze(1)).mul_(to)


def _jsd(p: Tensor, q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the generalised Jensen-Shannon divergence by row and its gradient: (1 - beta) q (log q - log m - KL(q || m))."""
    log = torch.tensor([beta, 1 - beta], device=p.device).log()
    middle, to = torch.logaddexp(p + log[0], q + log[1]), q.exp()
    away = _expected(to, q, middle)
    apart = beta * _expected(p.exp(), p, middle) + (1 - beta) * away
    return apart, (q - middle).sub_(away.unsqueeze(1)).mul_(to).mul_(1 - beta)


def _expected(weight: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return sum(weight * (p - q)) by row: (n, V) -> (n,)."""
    return (p - q).mul_(weight).sum(-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
}
"""(log-probabilities of teacher and student (n, V), beta) -> (divergence by row (n,), gradient by the student's logits)."""
