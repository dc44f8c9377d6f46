"""How probable a model finds a text: the mean NLL of its real targets, and what follows from it.

Every token of a split but its first is a target exactly once. Windows overlap by the one token that
is the last window's final target and the next one's first input; the stream runs on across
documents and line ends, as in training. Where the tokenizer opens documents with a begin token,
each document is read by itself instead, after its begin token, which is never a target. Isolated
documents that end in a token are read by themselves too, after the end of the one before.

NLL and perplexity count all targets. Bits per byte and word perplexity count the tokens of the text
alone: the end of a document has no bytes and is not a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flyweight.config.metrics import MetricKind, metric_kind
from flyweight.core.runtime import Precision
from flyweight.data.documents import reading_starts
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation.resampling import Ratio, UnitScores, interval, split_units
from flyweight.model.precision import autocast
from flyweight.records.likelihood import Interval, MeasuredLikelihood
from flyweight.records.metric import Metric

if TYPE_CHECKING:
    from flyweight.data.corpus import Split
    from flyweight.data.shards import Tokens

# Logits held at once: 8 M values, 32 MiB in float32, whatever the batch.
LOGITS_AT_ONCE = 1 << 23

LEVEL = 0.95
"""The level of the confidence intervals."""


class Scorable(Protocol):
    """What is needed of a model: final hidden states, and logits of any number of them."""

    training: bool

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return hidden states (B, T, dim) of tokens (B, T)."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocab_size) of hidden states (..., dim)."""
        ...


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A model's likelihood on one split, and every unit's summed NLL for paired comparison.

    The likelihood has 95 % bootstrap intervals over the units: documents or blocks.
    """

    likelihood: MeasuredLikelihood
    units: UnitScores


def evaluate(
    model: Scorable,
    split: Split,
    *,
    window: int,
    stride: int | None = None,
    batch: int = 16,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    seed: int = 0,
    metrics: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
    isolated: bool = False,
) -> ScoredSplit:
    """Return a model's likelihood on a split, in fixed windows of `window` inputs.

    They start `stride` (default: window) apart.

    With a smaller stride each later window scores only its last `stride` targets, so that they have
    more context. A perplexity by words is exp(NLL of the text / words), bits per byte are NLL of
    the text / ln 2 / bytes. A likelihood that is not a number counts as infinite. The softmax runs
    over the tokens that exist. `metrics` are measured as well, by name. `progress` hears the share
    that is done. `isolated`: no window reaches into another document. Raises RequestError for an
    unknown metric, a stride outside 1 ... window, a batch below 1, a split too short for an
    interval, or documents that cannot be told apart.
    """
    stride = window if stride is None else stride
    units = split_units(len(split.tokens), split.documents, window)
    sums, marks = np.zeros(len(units.counts)), np.zeros(len(units.counts))
    counts, text = np.zeros(len(sums), np.int64), np.zeros(len(sums), np.int64)
    plan = windows(split, len(split.tokens), window, stride, isolated)
    kinds = [metric_kind(name) for name in metrics]
    totals = np.zeros((len(kinds), len(sums)))
    parts = target_scores(
        model,
        split.tokens,
        window,
        stride,
        batch,
        device,
        precision,
        plan=plan,
        vocab_size=split.vocab_size,
        metrics=kinds,
    )
    for first, scores in parts:
        nll = scores[0]  # (n,)
        unit = units.of(np.arange(first, first + len(nll)))  # (n,)
        mark = np.isin(split.tokens[first + 1 : first + 1 + len(nll)], split.marks)  # (n,)
        sums += np.bincount(unit, weights=nll, minlength=len(sums))
        for total, score in zip(totals, scores[1:], strict=True):
            total += np.bincount(unit, weights=score, minlength=len(sums))
        marks += np.bincount(unit[mark], weights=nll[mark], minlength=len(sums))
        counts += np.bincount(unit, minlength=len(sums))
        text += np.bincount(unit[~mark], minlength=len(sums))
        if progress is not None:
            progress((first + len(nll)) / int(units.starts[-1]))
    size = text * (split.bytes / max(1, text.sum()))
    marked = marks if text.sum() < counts.sum() else None
    ratios = {
        kind.name: Ratio.of(total, counts, kind) for kind, total in zip(kinds, totals, strict=True)
    }
    scores = UnitScores(units.kind, sums, counts, size, split.name, marks=marked, metrics=ratios)
    return ScoredSplit(_likelihood(scores, split, window, stride, seed), scores)


def quick(
    model: Scorable,
    split: Split,
    *,
    tokens: int,
    window: int,
    batch: int = 16,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    isolated: bool = False,
) -> float:
    """Return the mean NLL (nats) of the first `tokens` targets of a split, or of all.

    It is the number to watch during training. Raises RequestError for a split without targets.
    """
    part = split.tokens[: tokens + 1]
    if len(part) < 2:
        raise RequestError(
            f"the {split.name} split has {len(part)} tokens: a likelihood needs at least 2; use "
            f"more text"
        )
    total, count = 0.0, 0
    plan = windows(split, len(part), window, window, isolated)
    for _, nll in target_nll(
        model,
        part,
        window,
        window,
        batch,
        device,
        precision,
        plan=plan,
        vocab_size=split.vocab_size,
    ):
        total, count = total + float(nll.sum()), count + len(nll)
    return total / count


def spans(targets: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Return every window as (first input, end of inputs, first target that it scores).

    Input i is token i, target i is token i + 1. Each target is scored by exactly one window; the
    last window is cut where the text ends.
    """
    if not 1 <= stride <= window:
        raise RequestError(
            f"stride: {stride} is not between 1 and the window, {window}; a larger one would "
            f"leave targets out"
        )
    windows, scored, start = [], 0, 0
    while scored < targets:
        stop = min(start + window, targets)
        windows.append((start, stop, scored))
        start, scored = start + stride, stop
    return windows


def windows(
    split: Split, tokens: int, window: int, stride: int, isolated: bool = False
) -> list[tuple[int, int, int]]:
    """Return the windows of the first `tokens` tokens of a split, as `spans` does.

    Where documents open with begin tokens, no window reaches across a document's start, and they
    are not scored. So it is with `isolated` documents; the end token of the document before, with
    which each is read, is the last target of that one.
    """
    if not split.opening and not isolated:
        return spans(tokens - 1, window, stride)
    starts = reading_starts(split)
    edges = np.append(starts[starts < tokens], tokens)
    plan = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        targets = end - start - 1
        if not split.opening and end < tokens:
            targets += 1
        for first, stop, scored in spans(targets, window, stride):
            scored = max(scored, split.opening - 1)
            if scored < stop:
                plan.append((start + first, start + stop, start + scored))
    return plan


def target_nll(
    model: Scorable,
    tokens: np.ndarray | Tokens,
    window: int,
    stride: int,
    batch: int,
    device: str | torch.device,
    precision: Precision,
    pad_to: int = 0,
    plan: list[tuple[int, int, int]] | None = None,
    vocab_size: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first target, NLL of it and those that follow, float64 (n,)) over a token stream (N,).

    Each target comes once.

    Rows are padded on the right, where a causal model's real positions cannot see it, to the
    longest of their batch (or `pad_to` inputs); padded positions never reach the head. `plan` has
    the windows where they are not those of `spans`. The softmax runs over the first `vocab_size`
    rows of the head, or over all of them.
    """
    parts = target_scores(
        model, tokens, window, stride, batch, device, precision, pad_to, plan, vocab_size
    )
    for first, scores in parts:
        yield first, scores[0]


def target_scores(
    model: Scorable,
    tokens: np.ndarray | Tokens,
    window: int,
    stride: int,
    batch: int,
    device: str | torch.device,
    precision: Precision,
    pad_to: int = 0,
    plan: list[tuple[int, int, int]] | None = None,
    vocab_size: int | None = None,
    metrics: Sequence[MetricKind] = (),
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first target, scores float64 (1 + metrics, n) from it on), as `target_nll` does.

    The first row is the NLL; the others are the scores of `metrics`.
    """
    if batch < 1:
        raise RequestError(f"batch: {batch}; at least one window at a time is needed")
    plan = spans(len(tokens) - 1, window, stride) if plan is None else plan
    for at in range(0, len(plan), batch):
        group = plan[at : at + batch]
        with _frozen(model), autocast(device, precision):
            scores = _window_scores(model, tokens, group, pad_to, device, vocab_size, metrics)
        edge = 0
        for _, stop, first in group:
            yield first, scores[:, edge : edge + stop - first]
            edge += stop - first


def _window_scores(
    model: Scorable,
    tokens: np.ndarray | Tokens,
    group: list[tuple[int, int, int]],
    pad_to: int,
    device: str | torch.device,
    vocab_size: int | None,
    metrics: Sequence[MetricKind],
) -> np.ndarray:
    """Return the scores (1 + metrics, n) of all scored targets of some windows, in order."""
    length = max(pad_to, *(stop - start for start, stop, _ in group))
    inputs = np.zeros((len(group), length), np.int64)
    targets = np.zeros((len(group), length), np.int64)
    scored = np.zeros((len(group), length), bool)
    for row, (start, stop, first) in enumerate(group):
        inputs[row, : stop - start] = tokens[start:stop]
        targets[row, : stop - start] = tokens[start + 1 : stop + 1]
        scored[row, first - start : stop - start] = True
    hidden = model.hidden(torch.from_numpy(inputs).to(device))  # (B, T, dim)
    real = torch.from_numpy(scored).to(device)
    chosen = torch.from_numpy(targets).to(device)[real]
    return token_scores(model, hidden[real], chosen, vocab_size, metrics)


def token_nll(
    model: Scorable, hidden: Tensor, targets: Tensor, vocab_size: int | None = None
) -> np.ndarray:
    """Return -log p of targets (n,) after hidden states (n, dim), float64.

    Softmax in float32, a chunk of tokens at a time.

    The softmax runs over the first `vocab_size` logits, or over all of them.
    """
    return token_scores(model, hidden, targets, vocab_size, ())[0]


def token_scores(
    model: Scorable,
    hidden: Tensor,
    targets: Tensor,
    vocab_size: int | None,
    metrics: Sequence[MetricKind],
) -> np.ndarray:
    """Return `token_nll` and the scores of metrics of the same logits, float64 (1 + metrics, n)."""
    parts, start = [], 0
    rows = 1
    while start < len(targets):
        logits = model.logits(hidden[start : start + rows])[:, :vocab_size].float()  # (rows, V)
        chosen = targets[start : start + rows, None]
        nll = -torch.log_softmax(logits, -1).gather(1, chosen)[:, 0]  # (rows,)
        others = [_score(kind, logits, chosen[:, 0]) for kind in metrics]
        parts.append(torch.stack([nll, *others]))  # (1 + metrics, rows)
        start, rows = start + rows, max(1, LOGITS_AT_ONCE // logits.shape[-1])
    return torch.cat(parts, 1).cpu().double().numpy()


def _score(kind: MetricKind, logits: Tensor, targets: Tensor) -> Tensor:
    """Return a metric's score of each target; refuse one that does not score each of them."""
    assert kind.score is not None
    scores = kind.score(logits, targets)
    if not isinstance(scores, Tensor) or scores.shape != targets.shape:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FlyweightError(
            f"the metric {kind.name} has to return a tensor of shape {tuple(targets.shape)}, one "
            f"score for each target, and returned {shape}"
        )
    return scores.to(logits)


@contextmanager
def _frozen(model: Scorable) -> Iterator[None]:
    """Switch dropout and gradients off, and back to what they were."""
    was_training = model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        # Not inference mode: tensors that a model caches here must serve later training steps.
        with torch.no_grad():
            yield
    finally:
        if isinstance(model, nn.Module):
            model.train(was_training)


def _likelihood(
    scores: UnitScores, split: Split, window: int, stride: int, seed: int
) -> MeasuredLikelihood:
    """Turn sums per unit into the four numbers and their intervals."""
    total, text, targets = (
        float(scores.nll.sum()),
        float(scores.text.sum()),
        int(scores.counts.sum()),
    )
    if math.isfinite(total):
        per_token = interval(scores.nll, scores.counts.astype(np.float64), seed)
        per_byte = interval(scores.text, scores.bytes, seed)
    else:
        total, text, per_token, per_byte = (
            math.inf,
            math.inf,
            (math.inf, math.inf),
            (math.inf, math.inf),
        )
    nll = Metric(total / targets, "nats/token", "lower", targets, *per_token)
    bits = Metric(
        text / math.log(2) / split.bytes,
        "bits/byte",
        "lower",
        split.bytes,
        *(x / math.log(2) for x in per_byte),
    )
    words = None
    if split.words:
        # Words per unit are not known; shared out by bytes they make this interval the one of the
        # NLL by bytes.
        scale = split.bytes / split.words
        words = Metric(
            _exp(text / split.words),
            "perplexity/word",
            "lower",
            split.words,
            *(_exp(bound * scale) for bound in per_byte),
        )
    perplexity = Metric(
        _exp(nll.value), "perplexity/token", "lower", targets, _exp(nll.low), _exp(nll.high)
    )
    metrics = {name: _measured(name, ratio, seed) for name, ratio in scores.metrics.items()}
    return MeasuredLikelihood(
        split=split.name,
        window=window,
        stride=stride,
        nll=nll,
        perplexity=perplexity,
        bits_per_byte=bits,
        word_perplexity=words,
        metrics=metrics,
        interval=Interval(level=LEVEL, over=scores.kind, units=len(scores.nll)),
    )


def _measured(name: str, ratio: Ratio, seed: int) -> Metric:
    """Return a metric with its interval from its sums per unit."""
    kind = metric_kind(name)
    low, high = interval(ratio.sums, ratio.sizes, seed)
    return Metric(
        value=ratio.value,
        unit=kind.unit,
        better=kind.better,
        n=int(ratio.sizes.sum()),
        low=low,
        high=high,
    )


def _exp(nats: float) -> float:
    """Return e^nats, infinite where a float cannot hold it."""
    return math.exp(nats) if nats < 700 else math.inf
