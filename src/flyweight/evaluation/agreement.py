"""How two models agree on a text: NLL, divergence and the most probable token, by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flyweight.errors import RequestError
from flyweight.evaluation.resampling import interval
from flyweight.records.metric import Metric
from flyweight.records.verification import Agreement

Logits = Callable[[Tensor], Tensor]
"""Returns logits (T, V) of token ids (T,)."""

ROWS = 256
"""Tokens whose distributions are compared at once."""


@torch.no_grad()
def agreement(
    model: Logits,
    export: Logits,
    tokens: np.ndarray,
    window: int,
    vocab_size: int,
    progress: Callable[[float], None] | None = None,
) -> Agreement:
    """Return how an export agrees with the model on a stream of tokens (N,).

    Both read windows of `window` tokens, each of which scores the tokens after its inputs. The
    softmax runs over the first `vocab_size` rows. Intervals are bootstraps over windows. Raises
    RequestError where the text is too short for two windows, or the export has fewer rows.
    """
    stream = torch.from_numpy(np.asarray(tokens, np.int64))
    starts = range(0, len(stream) - 1, window)
    if len(starts) < 2:
        raise RequestError(
            f"verify: {len(stream)} tokens make less than two windows of {window}; name a longer "
            f"text with --data"
        )
    parts: list[np.ndarray] = []
    edges = [0]
    for start in starts:
        inputs = stream[start : start + window][: len(stream) - 1 - start]
        targets = stream[start + 1 : start + 1 + len(inputs)]
        ours, theirs = model(inputs), export(inputs)  # (T, V), (T, W)
        if theirs.shape[-1] < vocab_size:
            raise RequestError(
                f"the export has {theirs.shape[-1]} tokens and the model {vocab_size}: it is "
                f"another model, or has another tokenizer"
            )
        parts.append(_compared(ours, theirs, targets, vocab_size))
        edges.append(edges[-1] + len(inputs))
        if progress is not None:
            progress(edges[-1] / (len(stream) - 1))
    return _summed(np.concatenate(parts, 1), np.array(edges))


def _compared(ours: Tensor, theirs: Tensor, targets: Tensor, vocab_size: int) -> np.ndarray:
    """Return NLL of both, KL and whether the likeliest tokens are equal: (4, T)."""
    parts = []
    for rows in torch.arange(len(targets)).split(ROWS):
        p = ours[rows, :vocab_size].float().log_softmax(-1)  # (R, V)
        q = theirs[rows, :vocab_size].float().log_softmax(-1)  # (R, V)
        target = targets[rows, None]
        nll = -q.gather(1, target)[:, 0].double()  # (R,)
        nll_of_model = -p.gather(1, target)[:, 0].double()  # (R,)
        kl = (p.double().exp() * (p.double() - q.double())).sum(-1)  # (R,)
        same = (p.argmax(-1) == q.argmax(-1)).double()
        parts.append(torch.stack([nll, nll_of_model, kl, same]))  # (4, R)
    return torch.cat(parts, 1).numpy()


def _summed(scores: np.ndarray, edges: np.ndarray) -> Agreement:
    """Return the means of scores (4, N) with intervals over windows."""
    counts = np.diff(edges).astype(np.float64)  # (W,)
    sums = np.add.reduceat(scores, edges[:-1], axis=1)  # (4, W)
    total = int(counts.sum())

    def metric(values: np.ndarray, unit: str, better: Literal["lower", "higher"]) -> Metric:
        value = float(values.sum() / total)
        if not np.isfinite(values).all():
            return Metric(float("inf"), unit, better, total, float("inf"), float("inf"))
        return Metric(value, unit, better, total, *interval(values, counts))

    quantile = float(np.quantile(scores[2], 0.999)) if np.isfinite(scores[2]).all() else np.inf
    return Agreement(
        tokens=total,
        nll=metric(sums[0], "nats/token", "lower"),
        nll_of_model=metric(sums[1], "nats/token", "lower"),
        difference=metric(sums[0] - sums[1], "nats/token", "lower"),
        kl=metric(sums[2], "nats/token", "lower"),
        kl_999=quantile,
        top_1=metric(sums[3], "share of tokens", "higher"),
    )
