"""The table of a study: one definition of its columns serves the terminal, Markdown, CSV and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count
from flyweight.records.run_summary import Floor
from flyweight.records.study_summary import CellSummary, Spread, StudySummary
from flyweight.reports.findings.phrases import floor_name
from flyweight.reports.ranking import pareto
from flyweight.reports.tables.csv_text import csv_text
from flyweight.reports.tables.run import Cell, short_time
from flyweight.visible import visible

if TYPE_CHECKING:
    from rich.table import Table as RichTable

LEGEND = (
    "Means over seeds on the test split; ranges are 95 % Student t intervals over at least three "
    "seeds: of the training, not of"
    " the text (perplexities by their logarithm). Bold: on the Pareto front of its metric "
    "against training FLOPs."
)


@dataclass(frozen=True)
class Row:
    """One line: a cell, or a floor."""

    label: str
    cell: CellSummary | None = None
    floor: Floor | None = None


@dataclass(frozen=True)
class Column:
    """One column: its title, what it means, and what stands in a row."""

    key: str
    title: str
    about: str
    text: Callable[[Row], Cell | None]


@dataclass(frozen=True)
class Table:
    """The cells of one text and its floors.

    `front` holds the names of cells on the Pareto front of metric and FLOPs.
    """

    data: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    front: frozenset[str] = field(default_factory=frozenset[str])


def tables(summary: StudySummary) -> list[Table]:
    """Return a study's tables, one for each text."""
    found = []
    for data, corpus in summary.corpus.items():
        cells = [cell for cell in summary.cells if cell.data == data]
        floors = [Row(floor_name(name), floor=floor) for name, floor in corpus.floors.items()]
        rows = (*(Row(label(cell), cell=cell) for cell in cells), *floors)
        columns = tuple(
            column for column in _columns(summary) if any(column.text(row) for row in rows)
        )
        found.append(
            Table(
                data,
                rows,
                columns,
                frozenset(cell.name for cell in front(cells, summary.metrics[0])),
            )
        )
    return found


def label(cell: CellSummary) -> str:
    """Return a cell's model with the fields of its grid."""
    return " ".join([cell.model, *(f"{path}={value}" for path, value in cell.fields.items())])


def front(cells: Sequence[CellSummary], metric: str) -> list[CellSummary]:
    """Return the cells on the Pareto front of a metric against training FLOPs, in order of FLOPs."""
    sound = [(cell, spread.mean) for cell in cells if (spread := cell.spread(metric))]
    sign = metric_kind(metric).sign
    return [
        sound[place][0] for place in pareto([(cell.flops, sign * mean) for cell, mean in sound])
    ]


def _columns(summary: StudySummary) -> list[Column]:
    return [
        Column(
            "context",
            "context",
            "tokens of a window",
            lambda row: row.cell and Cell(f"{row.cell.context}"),
        ),
        Column(
            "budget",
            "budget",
            "the study's name for how long it trained",
            lambda row: row.cell and Cell(row.cell.budget),
        ),
        Column("lr", "lr", "learning rate", _rate),
        Column(
            "parameters",
            "params",
            "parameters stored",
            lambda row: row.cell and Cell(format_count(row.cell.parameters)),
        ),
        Column(
            "flops",
            "FLOPs",
            "training FLOPs of a run",
            _spent(lambda cell: format_count(cell.flops)),
        ),
        Column(
            "seconds",
            "time",
            "training time of a run",
            _spent(lambda cell: short_time(cell.seconds)),
        ),
        *(
            Column(metric, metric_kind(metric).title, metric_kind(metric).about, _metric(metric))
            for metric in summary.metrics
        ),
        Column(
            "validation",
            "valid.",
            "mean of the best validation NLL in training, by which is chosen",
            _validation,
        ),
        Column(
            "seeds",
            "runs",
            "runs that count",
            lambda row: row.cell and Cell(f"{len(row.cell.tested)}"),
        ),
    ]


def _rate(row: Row) -> Cell | None:
    if row.cell is None or row.cell.lr is None:
        return None
    return Cell(f"{row.cell.lr:g}".replace("e-0", "e-"), "end of sweep" if row.cell.at_edge else "")


def _spent(text: Callable[[CellSummary], str]) -> Callable[[Row], Cell | None]:
    return lambda row: Cell(text(row.cell)) if row.cell and row.cell.finished else None


def _metric(metric: str) -> Callable[[Row], Cell | None]:
    digits = metric_kind(metric).digits

    def cell(row: Row) -> Cell | None:
        if row.floor:
            value = getattr(row.floor, metric, None)
            return None if value is None else Cell(f"{value:,.{digits}f}")
        spread = row.cell.spread(metric) if row.cell else None
        if spread is None:
            return Cell(row.cell.standing, tone="fail") if row.cell else None
        return Cell(f"{spread.mean:,.{digits}f}", _range(spread, digits))

    return cell


def _range(spread: Spread, digits: int) -> str:
    if spread.low is None or spread.high is None:
        return ""
    return f"{spread.low:,.{digits}f}\N{EN DASH}{spread.high:,.{digits}f}"


def _validation(row: Row) -> Cell | None:
    if row.cell is None or not math.isfinite(row.cell.validation):
        return None
    return Cell(f"{row.cell.validation:.3f}")


# --- writers ---


def markdown(summary: StudySummary) -> str:
    """Return the tables in Markdown, intervals in brackets, with what is no result and why below each."""
    lines = []
    for table in tables(summary):
        lines += [f"## {table.data}", ""]
        heads = ["model", *(column.title for column in table.columns)]
        lines += [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(table.columns)}"]
        for row in table.rows:
            bold = row.cell is not None and row.cell.name in table.front
            cells = [
                _flat(column.text(row), bold and column.key == summary.metrics[0])
                for column in table.columns
            ]
            lines.append(
                "| " + " | ".join(part.replace("|", "\\|") for part in (row.label, *cells)) + " |"
            )
        bad = [row.cell for row in table.rows if row.cell and row.cell.standing != "ok"]
        lines += [
            "",
            *(f"- {cell.name}: {cell.standing}; {cell.why}" for cell in bad),
            *([""] if bad else []),
        ]
    notes = [f"Protocol {summary.protocol}: {summary.protocol_line}.", LEGEND, *summary.left_out]
    lines += ["\n\n".join(notes), ""]
    if summary.findings:
        lines += ["## Findings", ""]
        lines += [
            f"- **{each.verdict}**: {each.claim} ({each.metric}). {each.method}"
            for each in summary.findings
        ]
    return visible("\n".join(lines) + "\n")


def _flat(cell: Cell | None, bold: bool) -> str:
    if cell is None:
        return ""
    text = f"**{cell.text}**" if bold else cell.text
    return f"{text} ({cell.sub})" if cell.sub else text


def long_csv(summary: StudySummary) -> str:
    """Return every number in long form: one line per run and metric, then one per cell and metric with its interval.

    A run that diverged has its lines too, without values.
    """
    rows: list[list[Any]] = []
    here = summary.environment
    fixed = [
        summary.name,
        summary.protocol,
        summary.created.isoformat(),
        here.processor,
        here.device,
        here.threads,
    ]
    fixed += [here.flyweight, here.torch]
    heads = [
        "study",
        "protocol",
        "created",
        "processor",
        "device",
        "threads",
        "flyweight",
        "torch",
        "data",
        "model",
        "fields",
    ]
    heads += [
        "context",
        "budget",
        "seed",
        "lr",
        "chosen",
        "parameters",
        "flops",
        "seconds",
        "standing",
        "metric",
        "value",
    ]
    rows.append([*heads, "low", "high", "n"])
    for cell in summary.cells:
        fields = " ".join(f"{path}={value}" for path, value in cell.fields.items())
        where = [cell.data, cell.model, fields, cell.context, cell.budget]
        for run in cell.runs:
            spent = ["", ""] if run.id is None else [f"{run.flops:.10g}", f"{run.seconds:.6g}"]
            what = [run.seed, run.lr or cell.lr, run.chosen, cell.parameters, *spent]
            found = run.metrics | (
                {} if run.validation is None else {"validation_nll": run.validation}
            )
            values = {metric: (f"{value:.10g}", 1) for metric, value in found.items()}
            if run.id is None:
                values = dict.fromkeys(summary.metrics, ("", 0))
            for metric, (value, count) in values.items():
                rows.append([*fixed, *where, *what, run.standing, metric, value, "", "", count])
        what = ["mean", cell.lr, True, cell.parameters, f"{cell.flops:.10g}", f"{cell.seconds:.6g}"]
        for metric in summary.metrics:
            if spread := cell.spread(metric):
                ends = ["" if end is None else f"{end:.10g}" for end in (spread.low, spread.high)]
                rows.append(
                    [
                        *fixed,
                        *where,
                        *what,
                        cell.standing,
                        metric,
                        f"{spread.mean:.10g}",
                        *ends,
                        spread.n,
                    ]
                )
    for data, corpus in summary.corpus.items():
        for name, floor in corpus.floors.items():
            for metric in summary.metrics:
                if (value := getattr(floor, metric, None)) is not None:
                    blank = [
                        data,
                        name,
                        "",
                        "",
                        "",
                        "",
                        "",
                        "",
                        floor.stored,
                        "",
                        f"{floor.seconds:.6g}",
                    ]
                    rows.append([*fixed, *blank, "floor", metric, f"{value:.10g}", "", "", 1])
    return csv_text(rows)


def terminal(summary: StudySummary) -> list[RichTable]:
    """Return the tables for a terminal: the front in bold, what is no result in red."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    found = []
    for table in tables(summary):
        contexts = {cell.context for cell in summary.cells}
        wanted = [
            *(["context"] if len(contexts) > 1 else []),
            "budget",
            "lr",
            "parameters",
            "flops",
            summary.metrics[0],
        ]
        shown = [column for column in table.columns if column.key in wanted]
        drawn = RichTable(
            box=box.SIMPLE_HEAD,
            title=table.data,
            title_justify="left",
            show_edge=False,
            pad_edge=False,
        )
        drawn.add_column("model", overflow="fold")
        for column in shown:
            drawn.add_column(column.title, justify="right", no_wrap=True)
        for row in table.rows:
            bold = (
                "bold" if row.cell and row.cell.name in table.front else "dim" if row.floor else ""
            )
            texts = []
            for column in shown:
                cell = column.text(row)
                text = Text(
                    cell.text if cell else "", style="red" if cell and cell.tone == "fail" else bold
                )
                texts.append(
                    text.append(f"\n{cell.sub}", style="dim not bold")
                    if cell and cell.sub
                    else text
                )
            drawn.add_row(Text(row.label, style=bold), *texts)
        found.append(drawn)
    return found
