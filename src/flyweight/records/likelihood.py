"""The likelihood of a text: what the stage `evaluate` writes and summaries and cards read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, JsonValue

from flyweight.records.metric import Metric
from flyweight.records.sealed import Record

NAMES = ("nll", "perplexity", "word_perplexity", "bits_per_byte")
"""The metrics that every evaluation has, in the order of its file."""

EvaluatedSplit = Literal["train", "validation", "test", "validation+test"]


class Interval(Record):
    """How the confidence intervals of an evaluation were made: over `units` documents or blocks."""

    level: float
    over: Literal["document", "block", "context"]
    units: int


class Likelihood(Record):
    """A model's likelihood on one split, read in windows of `window` tokens, `stride` apart.

    `word_perplexity` is None where the text has no words.
    """

    split: EvaluatedSplit
    window: int
    stride: int
    nll: Metric
    perplexity: Metric
    bits_per_byte: Metric
    word_perplexity: Metric | None = None
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Metrics that were asked for beside the likelihood, by name."""

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, object]) -> Self:
        """Return the likelihood that a `metrics.json` holds.

        Raises ValueError where it does not hold one.
        """
        known = {name: value for name, value in metrics.items() if name in cls.model_fields}
        return cls.model_validate(known)

    def metric(self, name: str) -> Metric | None:
        """Return a metric by its name; None where the text has none or it was not asked for."""
        if name in NAMES:
            return getattr(self, name)
        return self.metrics.get(name)


class MeasuredLikelihood(Likelihood):
    """A likelihood as its stage writes it: it says how its 95 % intervals were made."""

    interval: Interval

    def to_metrics(self) -> dict[str, JsonValue]:
        """Return the numbers as plain data; `metrics` only where others were asked for."""
        numbers = {name: self.metric(name) for name in NAMES}
        content: dict[str, JsonValue] = {
            name: None if metric is None else metric.json() for name, metric in numbers.items()
        }
        if self.metrics:
            content["metrics"] = {name: metric.json() for name, metric in self.metrics.items()}
        return {
            **content,
            "split": self.split,
            "window": self.window,
            "stride": self.stride,
            "interval": self.interval.model_dump(),
        }


class Evaluation(Likelihood):
    """A likelihood in a summary; `corpus` is the fingerprint of an entry of `Summary.corpus`."""

    corpus: str

    @classmethod
    def on(cls, corpus: str, likelihood: Likelihood) -> Evaluation:
        """Return a likelihood with the fingerprint of the text that it was measured on."""
        shared = {name: getattr(likelihood, name) for name in Likelihood.model_fields}
        return cls(corpus=corpus, **shared)
