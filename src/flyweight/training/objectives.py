"""What training minimises: next-token cross-entropy and distillation, summed over real targets.

The head and the loss are computed together, a few tokens at a time, so that [tokens x vocabulary]
never exists in float32 together with its gradient. Each chunk's gradient is taken while its logits
exist, and backward has nothing left to do but scale. The products are the same as in the plain
version (ADR 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flyweight.config import schema
from flyweight.core.alike import alike
from flyweight.data.batch import Batch, real_targets
from flyweight.model.decoder import Decoder
from flyweight.model.head import HeadMatrix
from flyweight.model.packed import Packed
from flyweight.spec.chunks import ALIGNED, PIECE_CPU, PIECE_ELSEWHERE, chunk_rows
from flyweight.training.hidden_matching import distance, watched
from flyweight.training.teaching import (
    Reader,
    RecordedTeaching,
    RunningTeaching,
    Teaching,
)

HEAD_ROWS = 4096
"""Rows of the head whose gradient is added at once in half precision."""

PieceLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor, Tensor | None]]
"""(raw float32 logits (n, V), rows, needs_grad) -> (losses (n,), NLL (n,), grad_logits (n, V)).

Losses and NLL are 0 for targets that are not real. `grad_logits` is the gradient of the summed loss
by the raw logits, or None unless `needs_grad`. It may reuse their memory.
"""

ChunkLoss = Callable[[slice], PieceLoss]
"""rows of a chunk -> the loss of pieces of it.

It takes a teacher's logits for all of the chunk: products with few rows are slow.
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


class LanguageModel(Reader, Protocol):
    """What an objective needs of a model that learns: see `flyweight.model.build`."""

    softcap: float | None

    def output_of(
        self, tokens: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, HeadMatrix, Tensor | None]:
        """Return what the head reads of tokens (B, T, K), its matrix (V, K) and its bias (V).

        All are differentiable, but a packed matrix, which is its layer. The matrix is read once:
        the gradient that it is given belongs to the model.
        """
        ...


class Objective(Protocol):
    """(model, batch) -> the loss and the NLL, summed over the batch's real targets."""

    def __call__(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of one batch."""
        ...


class _ChunkedHead(torch.autograd.Function):
    """Head product and loss over chunks of tokens.

    The gradients of hidden states, head and bias are taken on the way, where they are needed.
    Backward scales them in place and gives them away: the head's is not copied, and becomes that of
    the parameter. So there is one backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        head: _Head,
        loss_of: ChunkLoss,
        needs_grads: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor]:
        # hidden (N, K) in the compute dtype, weight (R, K), bias (R)
        losses = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        nlls = torch.zeros_like(losses)
        needs_hidden, needs_weight, needs_bias = needs_grads
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = _HeadGradient(weight) if weight is not None and needs_weight else None
        grad_bias = None
        if bias is not None and needs_bias:
            wide = torch.promote_types(bias.dtype, torch.float32)
            grad_bias = torch.zeros_like(bias, dtype=wide)
        for rows in head.chunks(hidden.shape[0]):
            logits = head.logits(hidden[rows])  # (n, V)
            piece_loss = loss_of(rows)
            for piece in _pieces(rows, logits):
                part = logits[piece.start - rows.start : piece.stop - rows.start]
                raw = part.float()
                if bias is not None:
                    raw = raw + bias[: head.tokens]
                losses[piece], nlls[piece], grad_logits = piece_loss(raw, piece, any(needs_grads))
                if grad_logits is None:
                    continue
                if grad_bias is not None:
                    grad_bias[: head.tokens] += grad_logits.sum(0)
                part.copy_(grad_logits)
            if grad_hidden is not None:
                head.write_grad_hidden(logits, grad_hidden[rows])
            if grad_weight is not None:
                grad_weight.add(logits, hidden[rows])
            del logits, piece_loss  # before the next chunk has its own
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        nll = nlls.sum()
        ctx.mark_non_differentiable(nll)
        return losses.sum(), nll

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradients of head and loss were taken before: compute the loss again"
            )
        (grad_hidden, grad_weight, grad_bias), ctx.gradients = ctx.gradients, None
        for gradient in (grad_hidden, grad_bias):
            if gradient is not None:
                gradient.mul_(grads[0].to(gradient.dtype))
        summed = None if grad_weight is None else grad_weight.times(grads[0])
        return grad_hidden, summed, grad_bias, None, None, None


def _pieces(rows: slice, logits: Tensor) -> Iterator[slice]:
    """Yield the rows of a chunk with these logits (n, V) in pieces that are small enough."""
    elements = PIECE_CPU if logits.device.type == "cpu" else PIECE_ELSEWHERE
    step = max(1, elements // logits.shape[1])
    for start in alike(range(rows.start, rows.stop, step), enough=2):
        yield slice(start, min(start + step, rows.stop))


class _Head:
    """The products of a head's matrix with chunks of rows; its first `tokens` rows take part."""

    def __init__(self, matrix: HeadMatrix, tokens: int | None, dtype: torch.dtype) -> None:
        self.matrix: HeadMatrix = matrix
        rows = matrix.shape[0] if isinstance(matrix, Tensor) else matrix.out_features
        self.tokens = rows if tokens is None else min(tokens, rows)
        if isinstance(matrix, Tensor):
            self.matrix = matrix.detach()[: self.tokens].to(dtype)
        self._memory: Tensor | None = None

    def chunks(self, rows: int) -> Iterator[slice]:
        """Yield the chunks of so many rows."""
        size = chunk_rows(self.tokens)
        for start in alike(range(0, rows, size), enough=2):
            yield slice(start, min(start + size, rows))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the product of a chunk (n, K) with the matrix, (n, V), to be changed freely.

        A dense matrix writes all chunks to the same memory: fresh pages cost more than a pass.
        """
        if not isinstance(self.matrix, Tensor):
            return self.matrix.product(hidden)[:, : self.tokens]
        if self._memory is None or self._memory.shape[0] < hidden.shape[0]:
            wide = -(-self.tokens // ALIGNED) * ALIGNED
            self._memory = hidden.new_empty(hidden.shape[0], wide)[:, : self.tokens]
        return torch.mm(hidden, self.matrix.T, out=self._memory[: hidden.shape[0]])

    def write_grad_hidden(self, grad_logits: Tensor, out: Tensor) -> None:
        """Write grad_logits (n, V) times the matrix to `out` (n, K)."""
        if isinstance(self.matrix, Tensor):
            torch.mm(grad_logits, self.matrix, out=out)
            return
        out.copy_(self.matrix.transposed(grad_logits))


class _HeadGradient:
    """The gradient of a head's matrix (V, D), summed over chunks in float32 at least.

    That of a bfloat16 matrix is summed in two halves of its rows: rounded, all of it fits into the
    memory of the first, and the second is given back.
    """

    def __init__(self, weight: Tensor) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        wide = torch.promote_types(weight.dtype, torch.float32)
        halves = weight.dtype.itemsize < wide.itemsize
        self.rows = -(-weight.shape[0] // 2) if halves else weight.shape[0]
        self.parts = [
            torch.zeros(len(part), *part.shape[1:], dtype=wide, device=weight.device)
            for part in weight.detach().split(self.rows)
        ]

    def add(self, grad_logits: Tensor, hidden: Tensor) -> None:
        """Add grad_logits^T hidden, (n, V) and (n, D), V being the rows that take part."""
        for part, logits in zip(self.parts, grad_logits.split(self.rows, dim=1), strict=False):
            _add_product(part[: logits.shape[1]], logits, hidden)

    def times(self, factor: Tensor) -> Tensor:
        """Return the gradient times a factor, in the dtype of the matrix; its parts are used up."""
        for part in self.parts:
            part.mul_(factor.to(part.dtype))
        first = self.parts[0]
        if first.dtype == self.dtype:
            return first
        rounded = first.view(-1).view(self.dtype)[: self.shape.numel()].view(self.shape)
        start = 0
        for piece in (piece for part in self.parts for piece in part.split(HEAD_ROWS)):
            # What is written lies before all that is still to be read.
            rounded[start : start + len(piece)] = piece.to(self.dtype)
            start += len(piece)
        return rounded


def _add_product(total: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
    """Add grad_logits^T hidden, (n, V) and (n, D), to the float32 `total` (V, D).

    In half precision the product is taken a few thousand rows at a time: it has to be widened
    before it is added, and a temporary copy of the whole head, which no cache holds, took three
    times as long as the product itself.
    """
    if hidden.dtype == total.dtype:
        total.addmm_(grad_logits.T, hidden)
        return
    for start in alike(range(0, total.shape[0], HEAD_ROWS), enough=2):
        rows = slice(start, start + HEAD_ROWS)
        total[rows] += grad_logits[:, rows].T @ hidden


def chunked(
    hidden: Tensor,
    matrix: HeadMatrix,
    loss_of: ChunkLoss,
    bias: Tensor | None = None,
    tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (loss, nll) of `loss_of`, summed over all rows of `hidden` (N, K).

    The head is `matrix` (V, K) with `bias` (V); of its rows the first `tokens` take part, or all.
    Under autocast the products run in its dtype and the loss in float32, as in the plain version.
    Raises RuntimeError where backward is called twice.
    """
    device = hidden.device.type
    dtype = matrix.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    weight = None if isinstance(matrix, Packed) else matrix
    parts = (hidden, weight, bias)
    needs_grads = tuple(
        part is not None and part.requires_grad and torch.is_grad_enabled() for part in parts
    )
    with torch.autocast(device, enabled=False):
        sums = _ChunkedHead.apply(
            hidden.to(dtype), weight, bias, _Head(matrix, tokens, dtype), loss_of, needs_grads
        )
    assert isinstance(sums, tuple)
    return sums


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(logits / softcap), or the logits themselves without a cap."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _sum_over_head(
    model: LanguageModel, batch: Batch, loss_of: ChunkLoss, tokens: int | None
) -> LossSum:
    """Return the sums of `loss_of` over a batch; only the head's rows for `tokens` take part."""
    read, matrix, bias = model.output_of(batch.learned_from, batch.documents)
    loss, nll = chunked(read.flatten(0, 1), matrix, loss_of, bias, tokens)
    return LossSum(loss, nll, batch.real_targets)


class NextTokenObjective:
    """Cross-entropy of the next token, in nats.

    `tokens` is the size of the vocabulary where the head has more rows than that; they take no part
    in the softmax.
    """

    def __init__(self, config: schema.NextToken, tokens: int | None = None) -> None:
        self.config = config
        self.tokens = tokens

    def __call__(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of one batch; without weights, loss and NLL are the same number."""

        def piece_loss(
            logits: Tensor, rows: slice, needs_grad: bool
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            targets = _TargetPiece(batch, rows)
            logits = capped(logits, model.softcap)
            log_probs = F.log_softmax(logits, dim=-1)  # (n, V)
            losses, nll = targets.cross_entropy(log_probs)
            if not needs_grad:
                return losses, nll, None
            grad_logits = targets.grad_cross_entropy(log_probs)
            return losses, nll, targets.finish_gradient(grad_logits, logits, model.softcap)

        return _sum_over_head(model, batch, lambda rows: piece_loss, self.tokens)


class DistillationObjective:
    """weight * T^2 * divergence(teacher, student at temperature T) + (1 - weight) * cross-entropy.

    Forward KL is KL(teacher || student) (Hinton et al. 2015). Reverse KL is KL(student || teacher).
    `jsd` is the generalised Jensen-Shannon divergence beta * KL(p || m) + (1 - beta) * KL(q || m),
    m = beta * p + (1 - beta) * q (Agarwal et al. 2024). Teacher and student see the same inputs.
    Their predictions for one position are compared before any shift, and the targets are the next
    tokens, so that nothing is off by one.

    `tokens` is the size of the vocabulary where a head has more rows than that; both softmaxes run
    over the tokens alone. Batches hold what the teacher told of them where it does not run (None).
    With `hidden`, the loss has the distance of hidden states as well, and both are decoders.
    """

    def __init__(
        self, config: schema.Distillation, teacher: Reader | None, tokens: int | None = None
    ) -> None:
        self.config = config
        self.teacher = teacher
        self.tokens = tokens

    def __call__(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of one batch."""
        hidden = self.config.hidden
        if hidden is None:
            return self._predictions(model, batch)
        assert isinstance(model, Decoder) and isinstance(self.teacher, Decoder)
        with (
            watched(self.teacher, list(hidden.places.values())) as taught,
            watched(model, list(hidden.places)) as seen,
        ):
            sums = self._predictions(model, batch)
        return replace(sums, loss=sums.loss + distance(hidden, seen, taught, batch))

    def _predictions(self, model: LanguageModel, batch: Batch) -> LossSum:
        """Return the sums of what the predictions cost."""
        config, temperature = self.config, self.config.temperature
        teaching: Teaching
        if self.teacher is None:
            teaching = RecordedTeaching(config, batch)
        else:
            teaching = RunningTeaching(config, batch, self.teacher, self.tokens)

        def loss_of(chunk: slice) -> PieceLoss:
            compared, untold = teaching.of(chunk), teaching.untold(chunk)

            def piece_loss(
                logits: Tensor, rows: slice, needs_grad: bool
            ) -> tuple[Tensor, Tensor, Tensor | None]:
                targets = _TargetPiece(batch, rows)
                logits = capped(logits, model.softcap)
                log_probs = F.log_softmax(logits, dim=-1)  # (n, V)
                cross_entropy, nll = targets.cross_entropy(log_probs)
                log_q = log_probs
                if temperature != 1:
                    log_q = F.log_softmax(logits / temperature, dim=-1)
                within = slice(rows.start - chunk.start, rows.stop - chunk.start)
                divergence, grad_logits = compared(within, log_q, targets.index)  # (n,), (n, V)
                losses = config.weight * temperature**2 * targets.weighted(divergence)
                losses = losses + (1 - config.weight) * cross_entropy
                grad_logits *= config.weight * temperature
                if untold is not None:
                    untold_loss, grad_untold = untold(within, log_probs, targets.index)
                    losses = losses + config.weight * targets.weighted(untold_loss)
                    grad_logits.add_(grad_untold, alpha=config.weight)
                if not needs_grad:
                    return losses, nll, None
                if config.weight < 1:
                    grad_cross_entropy = targets.grad_cross_entropy(log_probs)
                    grad_logits.add_(grad_cross_entropy, alpha=1 - config.weight)
                return losses, nll, targets.finish_gradient(grad_logits, logits, model.softcap)

            return piece_loss

        return _sum_over_head(model, batch, loss_of, self.tokens)


class _TargetPiece:
    """The targets (n,) of a piece, and what cross-entropy and its gradient take from them.

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
        """Return the weighted losses and the plain NLL, (n,) each, of log-probabilities (n, V)."""
        nll = -log_probs.gather(1, self.index).squeeze(1)  # (n,)
        if self.real is not None:
            nll = nll * self.real
        return (nll, nll) if self.weights is self.real else (self.weighted(nll), nll)

    def weighted(self, values: Tensor) -> Tensor:
        """Return one value (n,) a target times its weight."""
        return values if self.weights is None else values * self.weights

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
