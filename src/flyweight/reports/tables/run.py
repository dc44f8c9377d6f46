"""The table of a run's models: its columns for every writer of `engine`, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flyweight.records.metric import Metric
from flyweight.records.run_summary import Summary
from flyweight.reports.findings.phrases import FLOOR, floor_name
from flyweight.reports.models import ModelGroup, RankedModel
from flyweight.reports.ranking import bold
from flyweight.reports.tables.csv_text import csv_text
from flyweight.reports.tables.run_columns import QUALITY, SIGMA, RunSubject, columns_of
from flyweight.tables import engine
from flyweight.tables.engine import Column, Row, Table, shown_columns
from flyweight.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

LEGEND = {
    "interval": "Ranges are 95 % intervals.",
    "total": f"{SIGMA} counts every teacher and parent that was trained for a model.",
    "best": "Bold: best, or not significantly worse (none where all are alike).",
    "noisy": (
        "Of speeds that cannot be told apart, only the most steadily measured is bold, and only "
        "if it beats the rest."
    ),
    "floor": FLOOR,
}


def table(group: ModelGroup, name: str = "models") -> Table[RunSubject]:
    """Return the table of a group: its models in the recipe's order, then its floors."""
    models = [Row(each.label, each.label, RunSubject(each), each.standing) for each in group.models]
    floors = [
        Row(f"floor:{key}", floor_name(key), RunSubject(floor=floor), "floor")
        for key, floor in group.floors.items()
    ]
    rows = (*models, *floors)
    columns = columns_of(group)
    best = frozenset(
        (each.label, column.key)
        for column in columns
        if column.ranked
        for each in bold(group.rankable, _metric_of(column))
    )
    notes = _notes(group, columns, rows, best)
    return Table(name, shown_columns(columns, rows), rows, best, notes)


def _metric_of(column: Column[RunSubject]) -> Callable[[RankedModel], Metric | None] | None:
    """Return how a column measures a model, None for quality, whose differences are paired."""

    def metric(ranked: RankedModel) -> Metric | None:
        cell = column.cell(RunSubject(ranked))
        return cell.metric if cell else None

    return None if column.key == QUALITY else metric


def _notes(
    group: ModelGroup,
    columns: Sequence[Column[RunSubject]],
    rows: Sequence[Row[RunSubject]],
    best: frozenset[tuple[str, str]],
) -> tuple[tuple[str, frozenset[str]], ...]:
    """Return what has to be known to read the table, with the columns that it is about."""
    totals = frozenset(
        column.key
        for column in columns
        for row in rows
        if (cell := column.cell(row.of)) and cell.sub.startswith(SIGMA)
    )
    anywhere = frozenset[str]()
    notes = [(LEGEND["interval"], anywhere)]
    if totals:
        notes.append((LEGEND["total"], totals))
    if best:
        notes.append((LEGEND["best"], anywhere))
    if noisy := _noisy(columns, rows, frozenset(key for _, key in best)):
        notes.append((LEGEND["noisy"], noisy))
    if group.floors:
        notes.append((LEGEND["floor"], anywhere))
    return tuple(notes)


def _noisy(
    columns: Sequence[Column[RunSubject]], rows: Sequence[Row[RunSubject]], keys: frozenset[str]
) -> frozenset[str]:
    """Return those of these columns whose figures have intervals and are not paired."""
    return frozenset(
        column.key
        for column in columns
        if column.key in keys and column.key != QUALITY
        for row in rows
        if (cell := column.cell(row.of)) and cell.metric and cell.metric.low < cell.metric.high
    )


# --- writers ---


def terminal(group: ModelGroup, width: int = 100) -> RenderableType:
    """Return the table for a terminal of `width` columns."""
    return engine.terminal(table(group), width)


def markdown(group: ModelGroup) -> str:
    """Return the table in Markdown with what has to be known to read it."""
    built = table(group)
    notes = ["", " ".join(built.legend()), "", engine.explained(built)]
    return visible("\n".join([*engine.markdown(built), *notes]) + "\n")


RUN_HEAD = ("run", "seed", "created", "processor", "device", "threads", "flyweight", "torch")
ROW_HEAD = ("corpus", "split", "row", "kind", "standing")
METRIC_HEAD = ("metric", "value", "low", "high", "n", "unit", "better")


def long_csv(groups: Sequence[ModelGroup]) -> str:
    """Return every number of every column in long form.

    One line per run, model and metric, with machine and versions.
    """
    rows: list[Sequence[Any]] = [(*RUN_HEAD, *ROW_HEAD, *METRIC_HEAD)]
    for group in groups:
        for row in table(group).rows:
            rows += _csv_rows(group, row)
    return csv_text(rows)


def _csv_rows(group: ModelGroup, row: Row[RunSubject]) -> list[Sequence[object]]:
    ranked = row.of.ranked
    summary = ranked.summary if ranked else group.models[0].summary
    where = (group.text.name, group.text.split) if group.text else ("", "")
    kind, standing = ("model", row.standing) if ranked else ("floor", "")
    name = row.key.removeprefix("floor:")
    fixed = (*_machine(summary), *where, name, kind, standing)
    return [
        (*fixed, column.key, *_numbers(cell.metric))
        for column in columns_of(group)
        if (cell := column.cell(row.of)) and cell.metric
    ]


def _numbers(metric: Metric) -> tuple[str, ...]:
    values = [f"{number:.10g}" for number in (metric.value, metric.low, metric.high)]
    return (*values, str(metric.n), metric.unit, metric.better)


def _machine(summary: Summary) -> tuple[str | int, ...]:
    here = summary.environment
    versions = (here.processor, here.device, here.threads, here.flyweight, here.torch)
    return (summary.name, summary.seed, summary.created.isoformat(), *versions)
