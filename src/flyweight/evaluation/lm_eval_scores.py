"""lm-eval's metrics with 95 % intervals over questions, and two models paired by question.

lm-eval says how a task is asked and scored. How much a metric would move with other questions, and
whether a difference is decided, is worked out here as for every other measurement. No torch here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from flyweight.core.files import digest, new_file, reason
from flyweight.errors import FlyweightError
from flyweight.evaluation.resampling import SIZES, SUMS, Ratio, interval
from flyweight.records.difference import Difference
from flyweight.records.lm_eval import Form, LmEvalMetric, LmEvalScores, LmEvalTask
from flyweight.records.metric import Metric

if TYPE_CHECKING:
    from flyweight.checkpoints.harness import RawMetric, RawTask
    from flyweight.store.artifact import Artifact

QUESTIONS = "questions.safetensors"
"""The file of a measurement that holds each question's part of every metric."""

UNITS = {
    **dict.fromkeys(("acc", "acc_norm", "exact_match"), "share of questions"),
    "bits_per_byte": "bits/byte",
    "byte_perplexity": "perplexity per byte",
    "word_perplexity": "perplexity per word",
    "perplexity": "perplexity per question",
}
"""Units of lm-eval's common metrics; any other is a score of the task's own."""

SAME = 1e-6
"""Relative difference within which a mean of questions is lm-eval's value."""

NORMAL = 1.96
"""Standard errors on either side of a 95 % interval."""

Key = tuple[str, str]
"""A task and a metric."""


@dataclass(frozen=True, eq=False)
class QuestionScores:
    """Each question's part of every metric: by task and metric, in the order of the questions."""

    ratios: Mapping[Key, Ratio]
    forms: Mapping[Key, Form]
    questions: Mapping[str, str]
    """The fingerprint of every task's questions."""

    def save(self, path: Path) -> None:
        """Write the arrays and labels as one safetensors file."""
        from safetensors.numpy import save_file

        keys = list(self.ratios)
        arrays: dict[str, np.ndarray] = {}
        for place, key in enumerate(keys):
            arrays[f"{SUMS}{place}"] = self.ratios[key].sums
            arrays[f"{SIZES}{place}"] = self.ratios[key].sizes
        labels = {
            "keys": keys,
            "forms": [self.forms[key] for key in keys],
            "questions": dict(self.questions),
        }
        with new_file(path) as file:
            save_file(arrays, file, metadata={"labels": json.dumps(labels)})

    @classmethod
    def load(cls, path: Path) -> QuestionScores:
        """Read what `save` wrote.

        Raises FlyweightError that names the file when it is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                labels = json.loads((file.metadata() or {})["labels"])
                keys = [(str(task), str(metric)) for task, metric in labels["keys"]]
                ratios = {
                    key: Ratio(file.get_tensor(f"{SUMS}{at}"), file.get_tensor(f"{SIZES}{at}"))
                    for at, key in enumerate(keys)
                }
            forms: dict[Key, Form] = {
                key: _form(name) for key, name in zip(keys, labels["forms"], strict=True)
            }
            return cls(ratios, forms, labels["questions"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise FlyweightError(
                f"{path}: not a file of questions' scores ({reason(error)}); measure the model "
                "again"
            ) from error


def _form(name: str) -> Form:
    """Return how a metric follows from its questions; raise ValueError for another word."""
    for form in get_args(Form):
        if form == name:
            return form
    raise ValueError(f"{name!r} is not a form of a metric")


@dataclass(frozen=True, eq=False)
class MeasuredTasks:
    """A model's metrics on tasks, and the parts of each question by which models are paired."""

    record: LmEvalScores
    questions: QuestionScores


def read(artifact: Artifact) -> MeasuredTasks:
    """Return what an artifact of the stage `lm_eval` holds."""
    record = LmEvalScores.from_metrics(artifact.metrics())
    return MeasuredTasks(record, QuestionScores.load(artifact.path / QUESTIONS))


def measured(raw: Sequence[RawTask], few_shot: int | None, version: str) -> MeasuredTasks:
    """Return lm-eval's metrics with intervals over questions.

    `few_shot` is what was asked for: a task file that fixes another number is noted.
    """
    by_name = {task.name: task for task in raw}
    ratios: dict[Key, Ratio] = {}
    forms: dict[Key, Form] = {}
    tasks: dict[str, LmEvalTask] = {}
    for task in raw:
        found: dict[str, LmEvalMetric] = {}
        for name, metric in task.metrics.items():
            parts = metric.parts if not task.members else _pooled(task, name, by_name)
            ratio, form = _ratio(parts, metric)
            if ratio is not None and form is not None:
                ratios[task.name, name], forms[task.name, name] = ratio, form
            found[name] = _metric(metric, ratio, form)
        hashes = [by_name[name].questions for name in task.members] or [task.questions]
        tasks[task.name] = LmEvalTask(
            version=task.version,
            few_shot=task.few_shot,
            questions=digest([list(each) for each in hashes]),
            metrics=found,
        )
    notes = [
        f"{task.name} is asked with {task.few_shot} examples, as its task file says, "
        f"and not with {few_shot}"
        for task in raw
        if None not in (few_shot, task.few_shot) and task.few_shot != few_shot
    ]
    record = LmEvalScores(lm_eval=version, tasks=tasks, notes=tuple(notes))
    prints = {name: task.questions for name, task in tasks.items()}
    return MeasuredTasks(record, QuestionScores(ratios, forms, prints))


def _pooled(group: RawTask, metric: str, tasks: Mapping[str, RawTask]) -> tuple[object, ...]:
    """Return the parts of a group's metric: those of all questions of the tasks that have it."""
    members = (tasks[name].metrics.get(metric) for name in group.members)
    return tuple(part for member in members if member is not None for part in member.parts)


def _ratio(parts: Sequence[object], metric: RawMetric) -> tuple[Ratio | None, Form | None]:
    """Return a metric as sums over questions, and how its value follows from them.

    None for a metric that is not a mean of its questions: their parts have to give its value.
    """
    pairs = [_pair(part) for part in parts]
    if metric.value is None or not pairs or any(pair is None for pair in pairs):
        return None, None
    sums, sizes = np.array(pairs, np.float64).T.copy()
    if not np.isfinite(sums).all() or not sizes.sum() > 0:
        return None, None
    mean = float(sums.sum() / sizes.sum())
    if _same(mean, metric.value):
        return Ratio(sums, sizes), "mean"
    if _same(-mean / math.log(2), metric.value):
        return Ratio(-sums / math.log(2), sizes), "mean"
    if mean > -700 and _same(math.exp(-mean), metric.value):
        return Ratio(-sums, sizes), "log"
    return None, None


def _pair(part: object) -> tuple[float, float] | None:
    """Return a question's sum and weight; a number alone has weight 1."""
    if isinstance(part, int | float | np.number | np.bool_):
        return float(part), 1.0
    if isinstance(part, tuple | list) and len(part) == 2:
        first, second = part
        if isinstance(first, int | float) and isinstance(second, int | float):
            return float(first), float(second)
    return None


def _same(mean: float, value: float) -> bool:
    return math.isclose(mean, value, rel_tol=SAME, abs_tol=1e-9)


def _metric(metric: RawMetric, ratio: Ratio | None, form: Form | None) -> LmEvalMetric:
    """Return a metric with its interval over questions, or over lm-eval's standard error."""
    low = high = None
    n = metric.n
    if ratio is not None and form is not None:
        n = len(ratio.sums)
        if n > 1:
            low, high = (_value(bound, form) for bound in interval(ratio.sums, ratio.sizes))
    elif metric.value is not None and metric.stderr is not None:
        low, high = (metric.value + side * NORMAL * metric.stderr for side in (-1, 1))
    return LmEvalMetric(
        value=metric.value,
        low=low,
        high=high,
        stderr=metric.stderr,
        n=n,
        unit=UNITS.get(metric.name, "score"),
        better=metric.better,
        form=form,
    )


def _value(mean: float, form: Form) -> float:
    if form == "mean":
        return mean
    return math.exp(mean) if mean < 700 else math.inf


# --- two models ---


@dataclass(frozen=True)
class TaskChange:
    """One metric of two models on the same questions, `second` minus `first`, paired.

    Of a perplexity it is the logarithm that is compared, and `metric` says so.
    """

    task: str
    metric: str
    first: Metric
    second: Metric
    difference: Difference


def paired(
    first: MeasuredTasks, second: MeasuredTasks, tasks: Sequence[str] = ()
) -> tuple[list[TaskChange], list[str]]:
    """Return the change of every metric from one model to another, and what could not be paired.

    `tasks` are those to compare, by default all. Metrics without a direction are left out.
    """
    changes: list[TaskChange] = []
    faults: list[str] = []
    for task in tasks or tuple(first.record.tasks):
        if task not in second.record.tasks:
            faults.append(f"{task} was measured of one model alone")
            continue
        if first.questions.questions[task] != second.questions.questions[task]:
            faults.append(f"{task} was not asked with the same questions: its data changed")
            continue
        for name, metric in first.record.tasks[task].metrics.items():
            change = _change((task, name), metric, first.questions, second.questions)
            if change is None:
                faults.append(f"{task}: {name} has no parts of single questions to be paired by")
            else:
                changes.append(change)
    return changes, faults


def _change(
    key: Key, metric: LmEvalMetric, first: QuestionScores, second: QuestionScores
) -> TaskChange | None:
    """Return one metric of two models; None where it cannot be paired."""
    if not {key} <= first.ratios.keys() & second.ratios.keys() or metric.better is None:
        return None
    a, b = first.ratios[key], second.ratios[key]
    alike = first.forms[key] == second.forms[key] and np.array_equal(a.sizes, b.sizes)
    if not alike or len(a.sums) < 2:
        return None
    name, unit = key[1], metric.unit
    if first.forms[key] == "log":
        name, unit = f"log {name}", f"log {unit}"
    low, high = interval(b.sums - a.sums, a.sizes)
    value = float((b.sums - a.sums).sum() / a.sizes.sum())
    before, after = (
        Metric(each.value, unit, metric.better, len(each.sums), *interval(each.sums, each.sizes))
        for each in (a, b)
    )
    difference = Difference.of(value, low, high, unit, metric.better)
    return TaskChange(key[0], name, before, after, difference)
