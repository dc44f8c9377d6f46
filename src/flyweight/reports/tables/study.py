"""The table of a study's cells: its columns for all writers of `engine`, and its numbers as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyweight.config.metrics import metric_kind
from flyweight.config.units import (
    format_bits,
    format_count,
    format_short,
    format_short_time,
    format_size,
)
from flyweight.records.floors import Floor
from flyweight.records.study_summary import CellSummary, RunSummary, StudySummary
from flyweight.reports.findings.phrases import FLOOR, floor_name
from flyweight.reports.ranking import Direction, bold_cells, front_cells
from flyweight.reports.tables.csv_text import csv_text
from flyweight.tables import engine
from flyweight.tables.engine import Cell, Column, Row, Table, shown_columns
from flyweight.tables.markdown import text as plain
from flyweight.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERVALS = (
    "Means over seeds on the test split. Ranges are 95 % Student t intervals over at least three "
    "seeds: how another training would have come out, not another text (perplexities by their "
    "logarithm)."
)
BEST = (
    "Bold: the best mean, or not significantly worse than it, seed by seed (none where all are "
    "alike; not corrected for the number of cells)."
)


@dataclass(frozen=True)
class StudySubject:
    """What one row is about: a cell, or a floor."""

    cell: CellSummary | None = None
    floor: Floor | None = None
    on_front: bool = False


def tables(summary: StudySummary) -> dict[str, Table[StudySubject]]:
    """Return a study's tables by the name of their text."""
    return {data: table(summary, data) for data in summary.corpus}


def table(summary: StudySummary, data: str) -> Table[StudySubject]:
    """Return the table of one text: its cells in the study's order, then its floors."""
    cells = [cell for cell in summary.cells if cell.data == data]
    front = {cell.name for cell in front_cells(cells, *main_metric(summary))}
    rows = [
        Row(cell.name, label(cell), StudySubject(cell, on_front=cell.name in front), cell.standing)
        for cell in cells
    ]
    floors = summary.corpus[data].floors
    rows += [
        Row(f"floor:{name}", floor_name(name), StudySubject(floor=floor), "floor")
        for name, floor in floors.items()
    ]
    columns = _columns(summary)
    best = frozenset(
        (cell.name, metric)
        for metric in summary.metrics
        for cell in bold_cells(cells, metric, metric_kind(metric).better)
    )
    about = [INTERVALS, *([BEST] if best else []), *([FLOOR] if floors else [])]
    notes = tuple((note, frozenset[str]()) for note in about)
    return Table(f"text-{data}", shown_columns(columns, rows), tuple(rows), best, notes)


def main_metric(summary: StudySummary) -> tuple[str, Direction]:
    """Return the metric that a study's figures show, and which direction of it is better."""
    metric = summary.metrics[0]
    return metric, metric_kind(metric).better


def label(cell: CellSummary) -> str:
    """Return a cell's model with the fields of its grid."""
    return " ".join([cell.model, *(f"{path}={value}" for path, value in cell.fields.items())])


def _columns(summary: StudySummary) -> list[Column[StudySubject]]:
    """Return the columns of a study; only contexts that differ are worth room in a terminal."""
    several_contexts = len({cell.context for cell in summary.cells}) > 1
    context = Column(
        key="context",
        title="context",
        about="tokens of a window",
        value=_of_cell(lambda cell: f"{cell.context}"),
        priority=2 if several_contexts else 11,
    )
    measured = [_metric_column(metric, summary) for metric in summary.metrics]
    return [context, *CONDITIONS, *COSTS, *measured, *OUTCOMES]


def _metric_column(metric: str, summary: StudySummary) -> Column[StudySubject]:
    kind = metric_kind(metric)
    return Column(
        key=metric,
        title=kind.title,
        about=kind.about,
        value=_metric(metric),
        better=kind.better,
        ranked=True,
        priority=1 if metric == summary.metrics[0] else 7,
    )


# --- values ---


def _of_cell(text: Callable[[CellSummary], str]) -> Callable[[StudySubject], Cell | None]:
    return lambda line: Cell(text(line.cell)) if line.cell else None


def _of_finished(text: Callable[[CellSummary], str]) -> Callable[[StudySubject], Cell | None]:
    return lambda line: Cell(text(line.cell)) if line.cell and line.cell.finished else None


def _bytes_of(
    size: Callable[[CellSummary], int | None],
) -> Callable[[StudySubject], Cell | None]:
    def value(line: StudySubject) -> Cell | None:
        found = None if line.cell is None else size(line.cell)
        return None if found is None else Cell(format_size(found))

    return value


def _rate(line: StudySubject) -> Cell | None:
    if line.cell is None or line.cell.lr is None:
        return None
    edge = "end of sweep" if line.cell.at_edge else ""
    return Cell(format_short(line.cell.lr), edge)


def _metric(metric: str) -> Callable[[StudySubject], Cell | None]:
    kind = metric_kind(metric)

    def value(line: StudySubject) -> Cell | None:
        if line.floor:
            number = getattr(line.floor, metric, None)
            return None if number is None else Cell(kind.written(number))
        spread = line.cell.spread(metric) if line.cell else None
        if spread is None:
            return None
        return Cell(kind.written(spread.mean), kind.interval(spread.low, spread.high))

    return value


def _validation(line: StudySubject) -> Cell | None:
    if line.cell is None or not math.isfinite(line.cell.validation):
        return None
    return Cell(format_bits(line.cell.validation))


# --- writers ---


def terminal(summary: StudySummary, width: int = 100) -> list[RenderableType]:
    """Return the tables for a terminal of `width` columns."""
    return [engine.terminal(built, width, title=data) for data, built in tables(summary).items()]


def markdown(summary: StudySummary) -> str:
    """Return the tables in Markdown, with what is not a result and why below each."""
    lines, notes, words = [], {}, {}
    for data, built in tables(summary).items():
        bad = [row.of.cell for row in built.rows if row.of.cell and row.of.cell.standing != "ok"]
        lines += [f"## {plain(data)}", "", *engine.markdown(built), ""]
        lines += [f"- {plain(f'{cell.name}: {cell.standing}; {cell.why}')}" for cell in bad]
        lines += [""] if bad else []
        notes |= dict.fromkeys(built.legend())
        words[engine.explained(built)] = None
    protocol = plain(f"Protocol {summary.protocol}: {summary.protocol_line}.")
    left_out = map(plain, summary.left_out)
    lines += ["\n\n".join([protocol, " ".join(notes), *words, *left_out]), ""]
    if summary.findings:
        lines += ["## Findings", ""]
        lines += [
            f"- **{each.verdict}**: {plain(f'{each.claim} ({each.metric}). {each.method}')}"
            for each in summary.findings
        ]
    return visible("\n".join(lines) + "\n")


STUDY_HEAD = (
    *("study", "protocol", "created", "processor", "device", "threads", "flyweight", "torch"),
    *("data", "model", "fields", "context", "budget", "seed", "lr", "chosen"),
    *("parameters", "flops", "seconds", "memory_planned", "memory_used", "standing"),
    *("metric", "value", "low", "high", "n"),
)


def long_csv(summary: StudySummary) -> str:
    """Return every number in long form.

    One line per run and metric, then one per cell and metric with its interval, then the floors. A
    run that diverged has its lines too, without values.
    """
    here = summary.environment
    machine = (here.processor, here.device, here.threads, here.flyweight, here.torch)
    fixed = (summary.name, summary.protocol, summary.created.isoformat(), *machine)
    rows: list[Sequence[Any]] = [STUDY_HEAD]
    for cell in summary.cells:
        rows += [(*fixed, *line) for line in _csv_cell(cell, summary.metrics)]
    rows += [(*fixed, *line) for line in _csv_floors(summary)]
    return csv_text(rows)


def _csv_cell(cell: CellSummary, metrics: Sequence[str]) -> Iterator[Sequence[object]]:
    fields = " ".join(f"{path}={value}" for path, value in cell.fields.items())
    where = (cell.data, cell.model, fields, cell.context, cell.budget)
    for run in cell.runs:
        for line in _csv_run(cell, run, metrics):
            yield (*where, *line)
    spent = (f"{cell.flops:.10g}", f"{cell.seconds:.6g}", *_memory(cell, cell.memory_used))
    mean = (*where, "mean", cell.lr, True, cell.parameters, *spent, cell.standing)
    for metric in metrics:
        if spread := cell.spread(metric):
            ends = ["" if end is None else f"{end:.10g}" for end in (spread.low, spread.high)]
            yield (*mean, metric, f"{spread.mean:.10g}", *ends, spread.n)


def _memory(cell: CellSummary, used: int | None) -> list[object]:
    """Return the bytes planned and used, empty where they are not known."""
    return ["" if size is None else size for size in (cell.memory_planned, used)]


def _csv_run(
    cell: CellSummary, run: RunSummary, metrics: Sequence[str]
) -> Iterator[Sequence[object]]:
    diverged = run.id is None
    spent = ("", "") if diverged else (f"{run.flops:.10g}", f"{run.seconds:.6g}")
    spent = (*spent, *_memory(cell, run.memory_used))
    fixed = (run.seed, run.lr or cell.lr, run.chosen, cell.parameters, *spent, run.standing)
    if diverged:
        for metric in metrics:
            yield (*fixed, metric, "", "", "", 0)
        return
    values = dict(run.metrics)
    if run.validation is not None:
        values["validation_nll"] = run.validation
    for metric, value in values.items():
        yield (*fixed, metric, f"{value:.10g}", "", "", 1)


def _csv_floors(summary: StudySummary) -> Iterator[Sequence[object]]:
    for data, corpus in summary.corpus.items():
        for name, floor in corpus.floors.items():
            spent = ("", f"{floor.seconds:.6g}", "", "")
            blank = (data, name, *[""] * 6, floor.stored, *spent)
            for metric in summary.metrics:
                if (value := getattr(floor, metric, None)) is not None:
                    yield (*blank, "floor", metric, f"{value:.10g}", "", "", 1)


CONDITIONS: tuple[Column[StudySubject], ...] = (
    Column(
        key="budget",
        title="budget",
        about="the study's name for how long it trained",
        value=_of_cell(lambda cell: cell.budget),
        priority=2,
    ),
    Column(
        key="lr",
        title="lr",
        about="learning rate",
        value=_rate,
        priority=5,
    ),
)
"""What a cell was trained with, beside its context."""

COSTS: tuple[Column[StudySubject], ...] = (
    Column(
        key="parameters",
        title="params",
        about="parameters stored",
        value=_of_cell(lambda cell: format_count(cell.parameters)),
        priority=4,
    ),
    Column(
        key="flops",
        title="FLOPs",
        about="training FLOPs of a run (T: 10^12, P: 10^15)",
        value=_of_finished(lambda cell: format_count(cell.flops)),
        better="lower",
        priority=3,
    ),
    Column(
        key="seconds",
        title="time",
        about="training time of a run",
        value=_of_finished(lambda cell: format_short_time(cell.seconds)),
        priority=8,
    ),
    Column(
        key="memory_planned",
        title="planned",
        about="memory that a training was planned with",
        value=_bytes_of(lambda cell: cell.memory_planned),
        priority=12,
    ),
    Column(
        key="memory_used",
        title="memory",
        about="the most memory that a training held, beside Python's own",
        value=_bytes_of(lambda cell: cell.memory_used),
        better="lower",
        priority=13,
    ),
)
"""What a cell is and takes."""

OUTCOMES: tuple[Column[StudySubject], ...] = (
    Column(
        key="front",
        title="front",
        about="on the Pareto front: no other cell is better for fewer training FLOPs",
        value=lambda line: Cell("yes") if line.on_front else None,
        priority=6,
    ),
    Column(
        key="validation",
        title="valid.",
        about="mean of the best validation NLL in training, which chooses",
        value=_validation,
        better="lower",
        priority=9,
    ),
    Column(
        key="seeds",
        title="runs",
        about="runs that count",
        value=_of_cell(lambda cell: f"{len(cell.tested)}"),
        priority=10,
    ),
)
"""What the study says of a cell, beside its metrics."""
