"""The table of each task that a run's models were scored on: the models, then the task's floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flyweight.config.metrics import metric_kind
from flyweight.records.metric import Metric
from flyweight.records.run_summary import Summary
from flyweight.records.scores import TaskComparison, TaskScores
from flyweight.reports.findings.tasks import STANDINGS, best_models, task_notes
from flyweight.tables.engine import Cell, Column, Row, Table, Tone, shown_columns

TONES: dict[str, Tone] = {"above": "pass", "below": "fail", "undecided": "open"}

FLOOR = "A floor is a rule that copies part of the prompt; a model has to beat it."
BEST = "Bold: best by the metric that decides, or not significantly worse."


@dataclass(frozen=True)
class TaskSubject:
    """What one row is about: a model's scores, or those of the floor beside them."""

    scores: TaskScores
    floor: bool = False

    def metric(self, name: str) -> Metric | None:
        """Return a metric by its name; None where it was not measured."""
        metrics = self.scores.floor_metrics if self.floor else self.scores.metrics
        return metrics.get(name)


@dataclass(frozen=True)
class TaskTable:
    """One task: its scores by the model's name, the pairs of models, and the table of both."""

    scores: dict[str, TaskScores]
    pairs: tuple[TaskComparison, ...]
    table: Table[TaskSubject]

    @property
    def first(self) -> TaskScores:
        """One model's scores: what all of them share is read from these."""
        return next(iter(self.scores.values()))

    @property
    def title(self) -> str:
        """The task and its split."""
        return f"{self.first.task}, {self.first.split} split"

    @property
    def notes(self) -> list[str]:
        """What one has to know to read the numbers."""
        return task_notes(self.first)


def task_tables(summary: Summary) -> list[TaskTable]:
    """Return a table for every task of a run; a task whose rows differ by model has several."""
    grouped: dict[tuple[str, str, str], dict[str, TaskScores]] = {}
    for model in summary.models:
        for scores in model.scores:
            key = (scores.task, scores.split, scores.fingerprint)
            grouped.setdefault(key, {})[model.name] = scores
    return [
        _task_table(place, scores, [p for p in summary.task_comparisons if _key(p) == key])
        for place, (key, scores) in enumerate(grouped.items())
    ]


def _key(pair: TaskComparison) -> tuple[str, str, str]:
    return pair.task, pair.split, pair.fingerprint


def _task_table(
    place: int, scores: dict[str, TaskScores], pairs: Sequence[TaskComparison]
) -> TaskTable:
    first = next(iter(scores.values()))
    columns = [_column(name, at) for at, name in enumerate(first.shown)]
    standing = Column[TaskSubject](
        key="standing",
        title="floor",
        about=f"by {metric_kind(first.decides).title}, paired over contexts",
        value=_standing,
        priority=1,
    )
    rows = [Row(name, name, TaskSubject(each)) for name, each in scores.items()]
    rows.append(Row("floor", first.floor, TaskSubject(first, floor=True), "floor"))
    best = frozenset((name, first.decides) for name in best_models(scores, pairs))
    notes = [("Ranges are 95 % intervals.", frozenset[str]()), (FLOOR, frozenset[str]())]
    if best:
        notes.append((BEST, frozenset((first.decides,))))
    shown = shown_columns([*columns, standing], rows)
    table = Table(f"task-{place}", shown, tuple(rows), best, tuple(notes))
    return TaskTable(scores, tuple(pairs), table)


def _column(name: str, place: int) -> Column[TaskSubject]:
    kind = metric_kind(name)
    return Column(
        key=name,
        title=f"{kind.title} (%)" if kind.unit == "%" else kind.title,
        about=kind.about,
        value=_cell(name, kind.digits),
        better=kind.better,
        priority=2 + place,
    )


def _cell(name: str, digits: int) -> Callable[[TaskSubject], Cell | None]:
    def value(subject: TaskSubject) -> Cell | None:
        metric = subject.metric(name)
        if metric is None:
            return None
        ends = f"{metric.low:,.{digits}f}\N{EN DASH}{metric.high:,.{digits}f}"
        return Cell(f"{metric.value:,.{digits}f}", ends, metric)

    return value


def _standing(subject: TaskSubject) -> Cell | None:
    if subject.floor:
        return None
    standing = subject.scores.standing
    return Cell(STANDINGS[standing].removesuffix(" the floor"), tone=TONES[standing])
