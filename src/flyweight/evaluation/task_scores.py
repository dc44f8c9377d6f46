"""A task's metrics over many answers, with 95 % intervals over contexts.

Several questions may share one context, and their scores then go up and down together. So contexts
are resampled, never single rows. No torch here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from flyweight.config.metrics import metric_kind
from flyweight.evaluation import answers as answer_scores
from flyweight.evaluation.resampling import Ratio, interval, jackknife_interval
from flyweight.records.metric import Metric

DISTINCT = {"distinct_1": 1, "distinct_2": 2}
"""Metrics of all answers together: how many words one of their n-grams has."""


def contexts_of(keys: Iterable[object]) -> np.ndarray:
    """Return the number of each row's context (N,) int64: equal keys are one context."""
    places: dict[object, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in keys], np.int64)


def row_scores(
    answers: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the scores (N,) of every answer, by metric.

    Metrics of all answers together, and those that need a model, are left out. Raises RequestError
    where a kind of ROUGE is asked for and its package is not installed.
    """
    rows = list(zip(answers, references, strict=True))
    scores = {
        name: np.array([score(answer, others) for answer, others in rows])
        for name, score in answer_scores.SCORES.items()
        if name in metrics
    }
    wanted = [name for name in answer_scores.ROUGE if name in metrics]
    if wanted:
        rouge = [answer_scores.rouge(answer, others) for answer, others in rows]
        scores |= {name: np.array([score[name] for score in rouge]) for name in wanted}
    return scores


def over_contexts(
    scores: np.ndarray, contexts: np.ndarray, sizes: np.ndarray | None = None
) -> Ratio:
    """Return the sums of scores (N,) and sizes (N,) over each row's context, (contexts,) each.

    Every row has size 1 unless `sizes` says otherwise.
    """
    weights = np.ones(len(scores)) if sizes is None else sizes.astype(np.float64)
    return Ratio(np.bincount(contexts, weights=scores), np.bincount(contexts, weights=weights))


def mean_metric(name: str, scores: np.ndarray, contexts: np.ndarray, seed: int = 0) -> Metric:
    """Return the mean of rows' scores (N,) with its interval; `n` is the number of rows.

    Raises ValueError for fewer than two contexts.
    """
    kind, ratio = metric_kind(name), over_contexts(scores, contexts)
    low, high = interval(ratio.sums, ratio.sizes, seed)
    return Metric(ratio.value, kind.unit, kind.better, n=len(scores), low=low, high=high)


def perplexity_metric(
    nll: np.ndarray, tokens: np.ndarray, contexts: np.ndarray, seed: int = 0
) -> Metric:
    """Return exp(NLL / tokens) of completions with its interval; `n` is the number of tokens.

    `nll` (N,) has each completion's summed nats, `tokens` (N,) how many of them there are. A
    perplexity that no float can hold is infinite.
    """
    kind, ratio = metric_kind("completion_perplexity"), over_contexts(nll, contexts, tokens)
    low, high = interval(ratio.sums, ratio.sizes, seed)
    value, low, high = (_exp(bound) for bound in (ratio.value, low, high))
    return Metric(value, kind.unit, kind.better, n=int(tokens.sum()), low=low, high=high)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def distinct_metric(name: str, answers: Sequence[str], contexts: np.ndarray) -> Metric:
    """Return distinct-1 or distinct-2 of all answers, with a jackknife interval over contexts.

    `n` is the number of n-grams in all answers. Only answers of equal length compare: a text's
    share of different words falls with its length.
    """
    kind = metric_kind(name)
    grams: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(int(contexts.max()) + 1)]
    for context, answer in zip(contexts.tolist(), answers, strict=True):
        grams[context].update(answer_scores.ngrams(answer, DISTINCT[name]))
    # In how many contexts each n-gram occurs: without a context, those of it alone are gone.
    spread = Counter(gram for counts in grams for gram in counts)
    total = sum(counts.total() for counts in grams)
    left_out = np.array(
        [
            _share(
                len(spread) - sum(spread[gram] == 1 for gram in counts),
                total - counts.total(),
            )
            for counts in grams
        ]
    )
    value = _share(len(spread), total)
    low, high = jackknife_interval(value, left_out)
    return Metric(value, kind.unit, kind.better, n=total, low=max(0.0, low), high=min(1.0, high))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def answer_metrics(
    answers: Sequence[str],
    rows: Mapping[str, np.ndarray],
    contexts: np.ndarray,
    metrics: Sequence[str],
    seed: int = 0,
) -> dict[str, Metric]:
    """Return the metrics of answers by name, in the order of `metrics`.

    `rows` has the scores of `row_scores`, `contexts` (N,) each row's context. What needs a model is
    left out.
    """
    values: dict[str, Metric] = {}
    for name in metrics:
        if name in rows:
            values[name] = mean_metric(name, rows[name], contexts, seed)
        elif name in DISTINCT:
            values[name] = distinct_metric(name, answers, contexts)
    return values
