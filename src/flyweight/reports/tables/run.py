"""The table of models: one definition of its columns serves the terminal, Markdown, CSV and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count, format_rate, format_size
from flyweight.records.metric import Metric
from flyweight.records.run_summary import Floor, Summary, Training
from flyweight.reports.entries import UNRANKED, Entry, Group
from flyweight.reports.findings.phrases import FLOOR, floor_name
from flyweight.reports.ranking import AXES, bold
from flyweight.reports.tables.csv_text import csv_text
from flyweight.visible import visible

if TYPE_CHECKING:
    from rich.table import Table as RichTable

ASKED_AT = 2
"""The place of the metrics that a recipe asked for: after the likelihood's own columns."""

SIGMA = "\N{GREEK CAPITAL LETTER SIGMA}"
LEGEND = {
    "interval": "Ranges are 95 % intervals.",
    "total": f"{SIGMA} counts every teacher and parent that was trained for a model.",
    "best": "Bold: best, or not significantly worse (none where all are alike).",
    "floor": FLOOR,
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, or a floor; `key` is what it is called in CSV."""

    label: str
    entry: Entry | None = None
    floor: Floor | None = None
    key: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in one place: the number as text, a smaller second line, and the number itself where there is one."""

    text: str
    sub: str = ""
    metric: Metric | None = None
    tone: Literal["", "pass", "fail"] = ""


@dataclass(frozen=True)
class Column:
    """One column. `priority` 0 stands in CSV only.

    Where a terminal is too narrow, the highest priorities go first.
    """

    key: str
    title: str
    about: str
    priority: int
    cell: Callable[[Row], Cell | None]
    ranked: bool = True

    def metric(self, entry: Entry) -> Metric | None:
        """Return the number that an entry has in this column."""
        cell = self.cell(Row(entry.label, entry=entry))
        return cell.metric if cell else None


@dataclass(frozen=True)
class Table:
    """The rows of one group of models, with the cells that are best in their column, by (label, column key)."""

    group: Group
    rows: tuple[Row, ...]
    best: frozenset[tuple[str, str]]

    @property
    def columns(self) -> list[Column]:
        """The columns that are shown: those in which anything stands."""
        return [
            each
            for each in columns_of(self.group)
            if each.priority and any(each.cell(row) for row in self.rows)
        ]


def columns_of(group: Group) -> list[Column]:
    """Return the columns of a group: the usual ones, and a metric's where a recipe asked for it."""
    evaluations = [each.model.evaluate for each in group.entries if each.model.evaluate]
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.metrics)
    asked = [_metric_column(name) for name in names]
    return [*COLUMNS[:ASKED_AT], *asked, *COLUMNS[ASKED_AT:]]


def _metric_column(name: str) -> Column:
    kind = metric_kind(name)
    return Column(name, kind.title, kind.about, 4, _evaluated(name))


def table(group: Group) -> Table:
    """Return the table of a group: its models in the recipe's order, then its floors."""
    models = [Row(each.label, entry=each) for each in group.entries]
    floors = [Row(floor_name(key), floor=floor, key=key) for key, floor in group.floors.items()]
    best = {
        (each.label, column.key)
        for column in columns_of(group)
        if column.ranked
        for each in bold(group.sound, None if column.key == "bits_per_byte" else column.metric)
    }
    return Table(group, (*models, *floors), frozenset(best))


def glossary(made: Table, columns: Sequence[Column] | None = None) -> list[tuple[str, str]]:
    """Return (title, explanation) of these columns, by default of all that are shown."""
    shown = made.columns if columns is None else columns
    return [(column.title, column.about) for column in shown]


def legend(made: Table, columns: Sequence[Column] | None = None) -> list[str]:
    """Return what has to be known to read a table with these columns (default: all that are shown)."""
    cells = [
        cell
        for column in made.columns
        if columns is None or column in columns
        for row in made.rows
        if (cell := column.cell(row))
    ]
    marked = any(cell.sub.startswith(SIGMA) for cell in cells)
    absent = {"total": not marked, "floor": not made.group.floors, "best": not made.best}
    return [text for key, text in LEGEND.items() if not absent.get(key)]


# --- cells ---


def _range(metric: Metric) -> str:
    return "" if metric.low == metric.high else f"{metric.low:.3f}\N{EN DASH}{metric.high:.3f}"


def _bits_per_byte(row: Row) -> Cell | None:
    if row.floor:
        return Cell(
            f"{row.floor.bits_per_byte:.3f}",
            metric=Metric.exact(row.floor.bits_per_byte, "bits/byte"),
        )
    metric = row.entry.bits if row.entry else None
    return metric and Cell(f"{metric.value:.3f}", _range(metric), metric)


def _perplexity(row: Row) -> Cell | None:
    if row.floor:
        return Cell(
            _ppl(row.floor.perplexity), metric=Metric.exact(row.floor.perplexity, "1/token")
        )
    evaluate = row.entry.model.evaluate if row.entry else None
    return evaluate and Cell(_ppl(evaluate.perplexity.value), metric=evaluate.perplexity)


def _ppl(value: float) -> str:
    if value >= 1e5:
        return format_count(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _evaluated(name: str) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        if row.floor and name == "nll":
            return Cell(f"{row.floor.nll:.3f}", metric=Metric.exact(row.floor.nll, "nats/token"))
        metric = (
            row.entry.model.evaluate.metric(name)
            if row.entry and row.entry.model.evaluate
            else None
        )
        return metric and Cell(f"{metric.value:.4g}", metric=metric)

    return cell


def _parameters(row: Row) -> Cell | None:
    count = row.entry and row.entry.model.parameters.unique
    return (
        Cell(format_count(count), metric=Metric.exact(count, "parameters"))
        if count is not None
        else None
    )


def _disk(row: Row) -> Cell | None:
    metric = AXES["disk"].metric(row.entry) if row.entry else None
    return metric and Cell(format_size(metric.value), metric=metric)


def _measured(name: str, form: Callable[[float], str]) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        metric = (
            getattr(row.entry.model.bench, name) if row.entry and row.entry.model.bench else None
        )
        return metric and Cell(form(metric.value), metric=metric)

    return cell


def _trained(own: str, unit: str, form: Callable[[float], str]) -> Callable[[Row], Cell | None]:
    """Return a cell with a training's own cost over the total one.

    A model made without training cost nothing itself.
    """

    def cell(row: Row) -> Cell | None:
        training = row.entry.training if row.entry else None
        if row.entry is None or training is None:
            return None
        mine, total = _own(row.entry, training, own), getattr(training, f"total_{own}")
        sub = "" if total == mine else f"{SIGMA} {form(total)}"
        return Cell(form(mine) if mine else "none", sub, Metric.exact(mine, unit))

    return cell


def _total(own: str, unit: str) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        training = row.entry.training if row.entry else None
        value = training and getattr(training, f"total_{own}")
        return (
            Cell(format_count(value), metric=Metric.exact(value, unit))
            if value is not None
            else None
        )

    return cell


def _own(entry: Entry, training: Training, what: str) -> float:
    return 0.0 if entry.model.training is None else getattr(training, what)


def short_time(seconds: float) -> str:
    """Return seconds in one unit, for narrow columns: `131 s`, `35 min`, `2.1 h`."""
    if seconds < 600:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _audit(row: Row) -> Cell | None:
    audit = row.entry.model.audit if row.entry else None
    if audit is None:
        return None
    failed = sum(check.verdict == "fail" for check in audit.checks)
    done = sum(check.verdict == "pass" for check in audit.checks)
    if failed:
        return Cell(f"{failed} fail", f"of {failed + done}", tone="fail")
    return Cell("pass", f"{done} of {done}", tone="pass")


# --- writers ---


def terminal(group: Group, width: int = 100) -> RichTable:
    """Return the table for a terminal of `width` columns.

    What does not fit is left out and named below it.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = table(group)
    columns, gap = _fit(made, width)
    left = [column.title for column in made.columns if column not in columns]
    note = [f"Not shown at this width: {', '.join(left)}."] if left else []
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1 if gap > 1 else 0, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=" ".join([*legend(made, columns), *note, _explained(made, columns)]),
        caption_justify="left",
        caption_style="dim",
    )
    drawn.add_column("model", overflow="fold")
    for column in columns:
        drawn.add_column(column.title, justify="right", no_wrap=True)
    for row in made.rows:
        standing = row.entry.standing if row.entry else "floor"
        style = {"collapsed": "red", "too short": "yellow", "invalid": "red", "floor": "dim"}.get(
            standing, ""
        )
        name = Text(row.label, style=style)
        if standing in UNRANKED:
            name.append(f"\n{standing}", style="red")
        drawn.add_row(
            name,
            *(_rich(made, row, column) for column in columns),
            end_section=row is made.rows[len(group.entries) - 1],
        )
    return drawn


def _explained(made: Table, columns: Sequence[Column] | None = None) -> str:
    """Return what the columns mean, in one paragraph."""
    words = "; ".join(f"{title}: {about}" for title, about in glossary(made, columns))
    return f"{words}."


def _rich(made: Table, row: Row, column: Column):
    from rich.text import Text

    cell = column.cell(row)
    if cell is None:
        return Text("\N{MIDDLE DOT}", style="dim")
    style = {"pass": "green", "fail": "bold red"}.get(
        cell.tone, "bold" if (row.label, column.key) in made.best else ""
    )
    text = Text(cell.text, style=style or ("" if row.entry else "dim"))
    return text.append(f"\n{cell.sub}", style="dim not bold") if cell.sub else text


def _fit(made: Table, width: int) -> tuple[list[Column], int]:
    """Return the columns that fit into `width` and the gap between them, dropping the least important ones."""
    names = max(len(row.label) for row in made.rows)
    columns = made.columns
    while True:
        needed = min(names, 28) + sum(_width(made, column) for column in columns)
        for gap in (2, 1):
            if needed + gap * len(columns) <= width or len(columns) == 1:
                return columns, gap
        columns = [
            each for each in columns if each.priority < max(column.priority for column in columns)
        ]


def _width(made: Table, column: Column) -> int:
    cells = [cell for row in made.rows if (cell := column.cell(row))]
    return max([len(column.title), *(max(len(cell.text), len(cell.sub)) for cell in cells)])


def markdown(group: Group) -> str:
    """Return the table in Markdown, second lines in brackets."""
    made = table(group)
    lines = [
        "| model | " + " | ".join(column.title for column in made.columns) + " |",
        "|:---|" + "---:|" * len(made.columns),
    ]
    for row in made.rows:
        standing = (
            f" ({row.entry.standing})" if row.entry and row.entry.standing in UNRANKED else ""
        )
        cells = [_flat(made, row, column) for column in made.columns]
        lines.append(f"| {_pipe(row.label)}{standing} | " + " | ".join(cells) + " |")
    return visible("\n".join([*lines, "", " ".join(legend(made)), "", _explained(made)]) + "\n")


def _flat(made: Table, row: Row, column: Column) -> str:
    cell = column.cell(row)
    if cell is None:
        return ""
    text = f"**{cell.text}**" if (row.label, column.key) in made.best else cell.text
    return _pipe(f"{text} ({cell.sub})" if cell.sub else text)


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def long_csv(groups: Sequence[Group]) -> str:
    """Return every number of every column in long form: one line per run, model and metric, with machine and versions."""
    rows: list[list[Any]] = []
    run = ("run", "seed", "created", "processor", "device", "threads", "flyweight", "torch")
    rows.append(
        [
            *run,
            "corpus",
            "split",
            "row",
            "kind",
            "standing",
            "metric",
            "value",
            "low",
            "high",
            "n",
            "unit",
            "better",
        ]
    )
    for group in groups:
        for row in table(group).rows:
            summary = row.entry.summary if row.entry else group.entries[0].summary
            kind, standing = ("model", row.entry.standing) if row.entry else ("floor", "")
            for column in columns_of(group):
                cell = column.cell(row)
                if cell and (metric := cell.metric):
                    numbers = [
                        f"{number:.10g}" for number in (metric.value, metric.low, metric.high)
                    ]
                    numbers += [str(metric.n), metric.unit, metric.better]
                    where = (group.text.name, group.text.split) if group.text else ("", "")
                    rows.append(
                        [
                            *_machine(summary),
                            *where,
                            row.key or row.label,
                            kind,
                            standing,
                            column.key,
                            *numbers,
                        ]
                    )
    return csv_text(rows)


def _machine(summary: Summary) -> tuple[str | int, ...]:
    here = summary.environment
    versions = (here.processor, here.device, here.threads, here.flyweight, here.torch)
    return (summary.name, summary.seed, summary.created.isoformat(), *versions)


def _ms(value: float) -> str:
    return f"{value:.3g}"


COLUMNS = (
    Column(
        "bits_per_byte",
        "bits/byte",
        "bits to code a byte of the text, lower is better",
        1,
        _bits_per_byte,
    ),
    Column(
        "perplexity", "ppl", "perplexity per token, lower is better", 4, _perplexity, ranked=False
    ),
    Column("parameters", "params", "parameters stored", 5, _parameters, ranked=False),
    Column("disk_bytes", "on disk", "size of the model's files", 2, _disk),
    Column(
        "forward_ms",
        "fwd ms",
        "milliseconds of a forward pass over the whole context, median",
        9,
        _measured("forward_ms", _ms),
    ),
    Column(
        "decode_tokens_per_s",
        "tok/s",
        "tokens generated per second, median",
        3,
        _measured("decode_tokens_per_s", format_rate),
    ),
    Column(
        "peak_bytes",
        "memory",
        "peak memory in use, beside Python's own",
        8,
        _measured("peak_bytes", format_size),
    ),
    Column(
        "training_flops",
        "FLOPs",
        "floating-point operations of training",
        7,
        _trained("flops", "FLOPs", format_count),
        ranked=False,
    ),
    Column(
        "training_seconds",
        "time",
        "training time",
        10,
        _trained("seconds", "s", short_time),
        ranked=False,
    ),
    Column("audit", "audit", "checks passed", 6, _audit, ranked=False),
    Column("nll", "NLL", "nats per token", 0, _evaluated("nll")),
    Column(
        "word_perplexity",
        "word ppl",
        "perplexity per word of the corpus",
        0,
        _evaluated("word_perplexity"),
    ),
    Column(
        "prefill_tokens_per_s",
        "prefill",
        "prompt tokens read per second",
        0,
        _measured("prefill_tokens_per_s", format_rate),
    ),
    Column(
        "weight_bytes",
        "weights",
        "bytes of the weights in memory",
        0,
        _measured("weight_bytes", format_size),
    ),
    Column(
        "training_total_flops",
        "total FLOPs",
        "training FLOPs with teachers and parents",
        0,
        _total("flops", "FLOPs"),
    ),
    Column(
        "training_total_seconds",
        "total time",
        "training seconds with teachers and parents",
        0,
        _total("seconds", "s"),
    ),
)
