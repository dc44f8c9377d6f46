"""The table of lm-eval's tasks in a run: each metric of a task is a row, each model a column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flyweight.config.units import format_number
from flyweight.records.lm_eval import LmEvalMetric
from flyweight.records.metric import Metric
from flyweight.records.run_summary import ModelSummary, Summary
from flyweight.tables.engine import Cell, Column, Row, Table, shown_columns

INTERVALS = "Ranges are 95 % intervals over questions."
ERRORS = "A metric of all answers together has 1.96 of lm-eval's standard errors on either side."

Place = tuple[str, str]
"""A task and a metric."""


@dataclass(frozen=True)
class TaskRow:
    """What one row is about: each model's number of one metric of one task, by its name."""

    metrics: dict[str, LmEvalMetric]

    @property
    def first(self) -> LmEvalMetric:
        """One model's number: unit and direction are those of all."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True)
class LmEvalTable:
    """lm-eval's tasks of one run: their table, its title, and what has to be known."""

    title: str
    table: Table[TaskRow]
    notes: tuple[str, ...]


def lm_eval_tables(summaries: tuple[Summary, ...]) -> list[LmEvalTable]:
    """Return the table of every run whose models were measured on tasks of lm-eval."""
    tables: list[LmEvalTable] = []
    for summary in summaries:
        models = [model for model in summary.models if model.lm_eval is not None]
        if models:
            of_run = "" if len(summaries) == 1 else f" in {summary.name}"
            tables.append(_table(models, of_run, len(tables)))
    return tables


def _table(models: list[ModelSummary], of_run: str, place: int) -> LmEvalTable:
    found: dict[Place, dict[str, LmEvalMetric]] = {}
    notes: dict[str, None] = {}
    versions: dict[str, None] = {}
    for model in models:
        assert model.lm_eval is not None
        versions[model.lm_eval.lm_eval] = None
        notes |= dict.fromkeys(model.lm_eval.notes)
        for task, scores in model.lm_eval.tasks.items():
            for name, metric in scores.metrics.items():
                found.setdefault((task, name), {})[model.name] = metric
    rows = [
        Row(f"{task} {name}", f"{task}, {name}", TaskRow(found[task, name])) for task, name in found
    ]
    details = [
        Column[TaskRow]("n", "n", "questions", _questions, priority=3),
        Column[TaskRow]("better", "better", "", _better, priority=2),
    ]
    columns = [
        Column[TaskRow](f"of {model.name}", model.name, "", _of(model.name)) for model in models
    ]
    legend = [(INTERVALS, frozenset[str]())]
    if any(metric.form is None for row in found.values() for metric in row.values()):
        legend.append((ERRORS, frozenset[str]()))
    shown = shown_columns([*columns, *details], rows)
    table = Table(f"lm-eval-{place}", shown, tuple(rows), notes=tuple(legend), head="task, metric")
    return LmEvalTable(f"lm-eval {', '.join(versions)}{of_run}", table, tuple(notes))


def _of(model: str) -> Callable[[TaskRow], Cell | None]:
    """Return how a row gives a model's number, with its interval below."""

    def value(row: TaskRow) -> Cell | None:
        metric = row.metrics.get(model)
        if metric is None or metric.value is None:
            return None
        shown = format_number(metric.value)
        if metric.low is None or metric.high is None:
            return Cell(shown)
        ends = f"{format_number(metric.low)}\N{EN DASH}{format_number(metric.high)}"
        if metric.better is None:
            return Cell(shown, ends)
        measured = Metric(
            metric.value, metric.unit, metric.better, metric.n or 1, metric.low, metric.high
        )
        return Cell(shown, ends, measured)

    return value


def _questions(row: TaskRow) -> Cell | None:
    return None if row.first.n is None else Cell(f"{row.first.n:,}")


def _better(row: TaskRow) -> Cell | None:
    return None if row.first.better is None else Cell(row.first.better)
