"""A model's scores on a task: what the stage `score` writes, and what reports and tables read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, JsonValue

from flyweight.records.difference import Difference, Verdict
from flyweight.records.metric import Metric
from flyweight.records.sealed import Record

SCORED = "score "
"""What the keys of a model's measurements on tasks begin with; the task's place follows."""

Standing = Literal["above", "below", "undecided"]
"""Whether a model is better than its task's floor, by a paired test over contexts."""


class Answer(Record):
    """One row: the end of its prompt, the model's answer, the floor's, and the references.

    `scores` are the answer's own, by metric.
    """

    source: str
    prompt: str
    answer: str
    floor: str
    references: tuple[str, ...]
    scores: dict[str, float] = Field(default_factory=dict)


class TaskComparison(Record):
    """`a` minus `b` on the same rows of a task, by the task's own metric.

    `fingerprint` is that of the rows, as in `TaskScores`. `verdict` is about `a`, and corrected for
    `comparisons` comparisons (Holm).
    """

    task: str
    split: str
    fingerprint: str
    metric: str
    a: str
    b: str
    difference: Difference
    verdict: Verdict
    p: float
    p_corrected: float
    comparisons: int


class TaskScores(Record):
    """The scores of a model's answers to one split of a task, beside those of the task's floor.

    `metrics` has each metric with its interval over contexts, `floor_metrics` those of the floor,
    which has no `completion_perplexity`. `above_floor` has the paired differences, model minus
    floor; `decides` names the metric by which `standing` was judged, with its p-value in `p`.
    `shown` are the metrics that say most about the task, in the order of tables.

    Of `rows_available` rows, `rows` were scored, on `contexts` different contexts. `dropped` rows
    could not be read. `cut_prompts` lost their beginning because the window holds `window` tokens;
    `unscored` completions are longer than that and no part of `completion_perplexity`. `origin`
    names the files, `fingerprint` their scored rows; `division` says how the split was made, where
    it has no file.
    """

    task: str
    kind: str
    split: str
    origin: str
    division: str = ""
    fingerprint: str
    rows: int
    rows_available: int
    contexts: int
    dropped: int
    cut_prompts: int
    unscored: int
    window: int
    new_tokens: int
    metrics: dict[str, Metric]
    floor: str
    floor_about: str
    floor_metrics: dict[str, Metric]
    above_floor: dict[str, Difference]
    decides: str
    p: float
    standing: Standing
    shown: tuple[str, ...]
    answers: tuple[Answer, ...] = ()

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Self:
        """Return the scores that a `metrics.json` holds.

        Raises KeyError or ValueError where it does not hold any.
        """
        rest = {name: metrics[name] for name in cls.model_fields if name in metrics}
        (floor,) = metrics["floors"]
        return cls(
            **rest,
            metrics={name: metrics[name] for name in metrics["measured"]},
            floor=floor,
            floor_metrics=metrics["floors"][floor],
        )

    def to_metrics(self) -> dict[str, JsonValue]:
        """Return each metric under its own name, `measured` with their names, and everything else.

        `floors` has the floor's metrics by its name.
        """
        rest = self.model_dump(mode="json", exclude={"metrics", "floor", "floor_metrics"})
        return {
            **{name: metric.json() for name, metric in self.metrics.items()},
            "measured": list(self.metrics),
            "floors": {
                self.floor: {name: metric.json() for name, metric in self.floor_metrics.items()}
            },
            **rest,
        }
