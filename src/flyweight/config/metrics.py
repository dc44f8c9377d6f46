"""What can be measured of a model on a text: each metric's name, unit and direction.

The likelihood's own four are always measured. The others score each target, and a stage `evaluate`
measures those that its `metrics` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flyweight.config.messages import nearest
from flyweight.config.plugins import load_plugins
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
    that differences and means are those of logarithms. Raise `version` when `score` changes: the
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


def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 where the most probable token is the target, else 0."""
    return (logits.argmax(-1) == targets).float()


def metric_kind(name: str) -> MetricKind:
    """Return a metric by its name; raise RequestError for one that is not known."""
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
    if METRICS.get(metric.name, metric) != metric:
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
        digits=1,
    ),
    "word_perplexity": MetricKind(
        name="word_perplexity",
        title="word ppl",
        unit="perplexity/word",
        better="lower",
        about="perplexity per word",
        logs=True,
        digits=1,
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
