"""What can be measured of a model on a text: each metric's name, unit and direction.

The likelihood's own four are always measured. The others score each target, and a stage `evaluate`
measures those that its `metrics` names. A task's metrics score answers, in a stage `score`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flyweight.config.messages import nearest
from flyweight.config.plugins import load_plugins
from flyweight.config.units import format_number, format_perplexity
from flyweight.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class MetricKind:
    """One metric.

    `score` takes logits (n, vocabulary) in float32 and targets (n,) and returns a number for each
    target (n,); it is None for the likelihood's own metrics. The metric is the mean of the scores:
    over all targets, or, with `over="documents"`, over the means of the documents (of blocks where
    a text has fewer than 20 documents). `title` heads a column, `about` explains it. `logs` means
    that differences and means are those of logarithms. `digits` are the decimals shown; what `logs`
    has three digits in all. Raise `version` when `score` changes: the
    ids of evaluations follow it.
    """

    name: str
    title: str
    unit: str
    better: Better
    about: str
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    over: Literal["targets", "documents"] = "targets"
    logs: bool = False
    digits: int = 3
    version: int = 1

    @property
    def sign(self) -> int:
        """1 where lower is better, -1 where higher is: times this, lower is better."""
        return 1 if self.better == "lower" else -1

    def written(self, value: float) -> str:
        """Return a value as people read it, the same in every table, sentence and figure."""
        if self.logs:
            return format_perplexity(value)
        return f"{value:,.{self.digits}f}" if math.isfinite(value) else format_number(value)

    def interval(self, low: float | None, high: float | None) -> str:
        """Return an interval for a table's cell, empty where nothing is known of it."""
        if low is None or high is None or low == high:
            return ""
        return f"{self.written(low)}\N{EN DASH}{self.written(high)}"


def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 where the most probable token is the target, else 0."""
    return (logits.argmax(-1) == targets).float()


def metric_kind(name: str) -> MetricKind:
    """Return a metric by its name; raise RequestError for one that is not known."""
    if name in TASK_METRICS:
        return TASK_METRICS[name]
    if name not in METRICS:
        load_plugins()
    if name not in METRICS:
        raise RequestError(
            f"there is no metric {name!r}{nearest(name, METRICS)}; if another package adds it, "
            f"install that package"
        )
    return METRICS[name]


def metric_names() -> list[str]:
    """Return the names of all metrics."""
    load_plugins()
    return list(METRICS)


def scored(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of some metrics that an evaluation has to be asked for, sorted."""
    return tuple(sorted(name for name in set(names) if metric_kind(name).score is not None))


def register_metric(metric: MetricKind) -> None:
    """Add a metric: `evaluate`, reports, studies, comparisons and `select` know it from then on.

    Raises RequestError for something else than a MetricKind with a score, and for a name that is
    taken. Registering the same metric again changes nothing.
    """
    if not isinstance(metric, MetricKind) or not callable(metric.score):
        raise RequestError(f"register_metric: {metric!r} is not a MetricKind with a score")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", metric.name):
        raise RequestError(
            f"register_metric: a name has small letters, digits and _ (32 at most), not "
            f"{metric.name!r}"
        )
    if METRICS.get(metric.name, metric) != metric or metric.name in TASK_METRICS:
        raise RequestError(f"register_metric: the name {metric.name!r} is taken")
    METRICS[metric.name] = metric


METRICS: dict[str, MetricKind] = {
    "nll": MetricKind(
        name="nll",
        title="NLL",
        unit="nats/token",
        better="lower",
        about="nats per token of the test split",
    ),
    "bits_per_byte": MetricKind(
        name="bits_per_byte",
        title="bits/byte",
        unit="bits/byte",
        better="lower",
        about="bits per byte of raw text",
    ),
    "perplexity": MetricKind(
        name="perplexity",
        title="ppl",
        unit="perplexity/token",
        better="lower",
        about="perplexity per token",
        logs=True,
    ),
    "word_perplexity": MetricKind(
        name="word_perplexity",
        title="word ppl",
        unit="perplexity/word",
        better="lower",
        about="perplexity per word",
        logs=True,
    ),
    "accuracy": MetricKind(
        name="accuracy",
        title="accuracy",
        unit="share of targets",
        better="higher",
        about="share of targets that are the model's most probable token",
        score=_correct,
    ),
}
"""Every metric by name; `flyweight.register_metric` adds those of other packages."""


TASK_METRICS: dict[str, MetricKind] = {
    "exact_match": MetricKind(
        name="exact_match",
        title="EM",
        unit="%",
        better="higher",
        about="answers that equal a reference, in percent, as SQuAD 1.1 compares them",
        digits=2,
    ),
    "f1": MetricKind(
        name="f1",
        title="F1",
        unit="%",
        better="higher",
        about="words that answer and reference share, in percent (SQuAD 1.1)",
        digits=2,
    ),
    "rouge1": MetricKind(
        name="rouge1",
        title="ROUGE-1",
        unit="F",
        better="higher",
        about="words that answer and reference share: F, 0 to 1, stemmed",
    ),
    "rouge2": MetricKind(
        name="rouge2",
        title="ROUGE-2",
        unit="F",
        better="higher",
        about="pairs of words that answer and reference share: F, 0 to 1, stemmed",
    ),
    "rougeL": MetricKind(
        name="rougeL",
        title="ROUGE-L",
        unit="F",
        better="higher",
        about="the longest sequence of words in both, in order: F, 0 to 1, stemmed",
    ),
    "distinct_1": MetricKind(
        name="distinct_1",
        title="distinct-1",
        unit="share of words",
        better="higher",
        about="different words of all answers, as a share of all their words",
    ),
    "distinct_2": MetricKind(
        name="distinct_2",
        title="distinct-2",
        unit="share of pairs",
        better="higher",
        about="different pairs of words of all answers, as a share of all their pairs",
    ),
    "completion_perplexity": MetricKind(
        name="completion_perplexity",
        title="completion ppl",
        unit="perplexity/token",
        better="lower",
        about="perplexity per token of the reference answer, given the prompt",
        logs=True,
    ),
}
"""Every metric of a task by name: what a stage `score` measures."""
