"""A model's metrics on tasks of lm-eval: what the stage `lm_eval` writes, and reports read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, JsonValue

from flyweight.records.sealed import Record

Form = Literal["mean", "log"]
"""How a metric follows from its questions: a mean of them, or exp(mean) of their logarithms."""


class LmEvalMetric(Record):
    """One metric of a task; `low` and `high` bound its 95 % interval over `n` questions.

    `stderr` is lm-eval's own standard error. `better` is lm-eval's direction. What lm-eval does not
    give, or gives as no number, is None. `form` is None where the metric is of all answers
    together, so that models cannot be paired by it; its interval is then 1.96 standard errors.
    """

    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    n: int | None
    unit: str
    better: Literal["lower", "higher"] | None
    form: Form | None = None


class LmEvalTask(Record):
    """A task, or a group of tasks, with its metrics by name.

    `few_shot` is how many examples stood before each question; None for a group. `questions` is the
    fingerprint of the questions: models that were asked equal ones can be paired.
    """

    version: str
    few_shot: int | None
    questions: str
    metrics: dict[str, LmEvalMetric]


class LmEvalScores(Record):
    """A model's metrics on tasks, by the version `lm_eval` of the harness.

    `notes` say what was asked for and not done.
    """

    lm_eval: str
    tasks: dict[str, LmEvalTask]
    notes: tuple[str, ...] = Field(default=())

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, object]) -> Self:
        """Return the scores that a `metrics.json` holds.

        Raises ValueError where it does not hold any.
        """
        return cls.model_validate(metrics)

    def to_metrics(self) -> dict[str, JsonValue]:
        """Return the scores as plain data."""
        return json.loads(self.model_dump_json())

    def by_task(self) -> dict[str, dict[str, dict[str, JsonValue]]]:
        """Return `{task: {metric: {value, low, high, stderr, n, unit, better}}}` as plain data."""
        return {
            name: {
                metric: each.model_dump(mode="json", exclude={"form"})
                for metric, each in task.metrics.items()
            }
            for name, task in self.tasks.items()
        }
