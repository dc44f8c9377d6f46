"""The table of models: one definition of its columns serves the terminal, Markdown, CSV and the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flyweight.config.units import format_count, format_size
from flyweight.core.metric import Metric
from flyweight.report.standing import AXES, UNRANKED, Entry, Group, leaders
from flyweight.report.summary import Floor, Summary, Training

if TYPE_CHECKING:
    from rich.table import Table as RichTable

SIGMA = "\N{GREEK CAPITAL LETTER SIGMA}"
LEGEND = {
    "interval": "Ranges are 95 % intervals.",
    "total": f"{SIGMA} counts every teacher and parent that was trained for a model.",
    "best": "Bold: the best, and what cannot be told from it.",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, or a floor."""

    label: str
    entry: Entry | None = None
    floor: Floor | None = None


@dataclass(frozen=True)
class Cell:
    """What stands in one place: the number as text, a smaller second line, and the number itself where there is one."""

    text: str
    sub: str = ""
    metric: Metric | None = None
    tone: Literal["", "pass", "fail"] = ""


@dataclass(frozen=True)
class Column:
    """One column. `priority` 0 stands in CSV only; where a terminal is too narrow, the highest priorities go first."""

    key: str
    title: str
    about: str
    priority: int
    cell: Callable[[Row], Cell | None]
    ranked: bool = True


@dataclass(frozen=True)
class Table:
    """The rows of one group of models, with the cells that are best in their column, by (label, column key)."""

    group: Group
    rows: tuple[Row, ...]
    best: frozenset[tuple[str, str]]

    @property
    def columns(self) -> list[Column]:
        """The columns that are shown: those in which anything stands."""
        return [each for each in COLUMNS if each.priority and any(each.cell(row) for row in self.rows)]


def table(group: Group) -> Table:
    """Return the table of a group: its models in the recipe's order, then its floors."""
    models = [Row(each.label, entry=each) for each in group.entries]
    floors = [Row(label, floor=floor) for label, floor in group.floors.items()]
    best = {(label, column.key) for column in COLUMNS if column.ranked for label in _best(column, group.sound)}
    return Table(group, (*models, *floors), frozenset(best))


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
    return [text for key, text in LEGEND.items() if key != "total" or marked]


def _best(column: Column, sound: Sequence[Entry]) -> list[str]:
    """Return the labels of the best models in a column, with those whose intervals overlap the best one's."""
    if column.key == "bits_per_byte":
        return [each.label for each in leaders(sound)] if len(sound) > 1 else []
    cells = [(each.label, cell.metric) for each in sound if (cell := column.cell(Row(each.label, entry=each))) and cell.metric]
    if len(cells) < 2:
        return []
    higher = cells[0][1].better == "higher"
    top = max((m for _, m in cells), key=lambda m: m.value) if higher else min((m for _, m in cells), key=lambda m: m.value)
    tied = [label for label, m in cells if (m.high >= top.low if higher else m.low <= top.high)]
    return tied if len(tied) < len(cells) else []


# --- cells ---


def _range(metric: Metric) -> str:
    return "" if metric.low == metric.high else f"{metric.low:.3f}\N{EN DASH}{metric.high:.3f}"


def _bits_per_byte(row: Row) -> Cell | None:
    if row.floor:
        return Cell(f"{row.floor.bits_per_byte:.3f}", metric=Metric.exact(row.floor.bits_per_byte, "bits/byte"))
    metric = row.entry.bits if row.entry else None
    return metric and Cell(f"{metric.value:.3f}", _range(metric), metric)


def _perplexity(row: Row) -> Cell | None:
    if row.floor:
        return Cell(_ppl(row.floor.perplexity), metric=Metric.exact(row.floor.perplexity, "1/token"))
    evaluate = row.entry.model.evaluate if row.entry else None
    return evaluate and Cell(_ppl(evaluate.perplexity.value), metric=evaluate.perplexity)


def _ppl(value: float) -> str:
    if not math.isfinite(value) or value >= 1e5:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _evaluated(name: str) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        if row.floor and name == "nll":
            return Cell(f"{row.floor.nll:.3f}", metric=Metric.exact(row.floor.nll, "nats/token"))
        metric = getattr(row.entry.model.evaluate, name) if row.entry and row.entry.model.evaluate else None
        return metric and Cell(f"{metric.value:.4g}", metric=metric)

    return cell


def _parameters(row: Row) -> Cell | None:
    count = row.entry and row.entry.model.parameters.unique
    return Cell(format_count(count), metric=Metric.exact(count, "parameters")) if count is not None else None


def _disk(row: Row) -> Cell | None:
    metric = AXES["disk"].metric(row.entry) if row.entry else None
    return metric and Cell(format_size(metric.value), metric=metric)


def _measured(name: str, form: Callable[[float], str]) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        metric = getattr(row.entry.model.bench, name) if row.entry and row.entry.model.bench else None
        return metric and Cell(form(metric.value), metric=metric)

    return cell


def _trained(own: str, unit: str, form: Callable[[float], str]) -> Callable[[Row], Cell | None]:
    """Return a cell with a training's own cost over the total one; a model made without training cost nothing itself."""

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
        return Cell(format_count(value), metric=Metric.exact(value, unit)) if value is not None else None

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
    """Return the table for a terminal of `width` columns; what does not fit is left out and named below it."""
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
        caption=" ".join([*legend(made, columns), *note]),
        caption_justify="left",
        caption_style="dim",
    )
    drawn.add_column("model", overflow="fold")
    for column in columns:
        drawn.add_column(column.title, justify="right", no_wrap=True)
    for row in made.rows:
        standing = row.entry.standing if row.entry else "floor"
        style = {"collapsed": "red", "too short": "yellow", "invalid": "red", "floor": "dim"}.get(standing, "")
        name = Text(row.label, style=style)
        if standing in UNRANKED:
            name.append(f"\n{standing}", style="red")
        drawn.add_row(
            name, *(_rich(made, row, column) for column in columns), end_section=row is made.rows[len(group.entries) - 1]
        )
    return drawn


def _rich(made: Table, row: Row, column: Column):
    from rich.text import Text

    cell = column.cell(row)
    if cell is None:
        return Text("\N{MIDDLE DOT}", style="dim")
    style = {"pass": "green", "fail": "bold red"}.get(cell.tone, "bold" if (row.label, column.key) in made.best else "")
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
        columns = [each for each in columns if each.priority < max(column.priority for column in columns)]


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
        standing = f" ({row.entry.standing})" if row.entry and row.entry.standing in UNRANKED else ""
        cells = [_flat(made, row, column) for column in made.columns]
        lines.append(f"| {_pipe(row.label)}{standing} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", " ".join(legend(made))]) + "\n"


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
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    run = ("run", "seed", "created", "processor", "device", "threads", "flyweight", "torch")
    writer.writerow(
        [*run, "corpus", "split", "row", "kind", "standing", "metric", "value", "low", "high", "n", "unit", "better"]
    )
    for group in groups:
        for row in table(group).rows:
            summary = row.entry.summary if row.entry else group.entries[0].summary
            kind, standing = ("model", row.entry.standing) if row.entry else ("floor", "")
            for column in COLUMNS:
                cell = column.cell(row)
                if cell and (metric := cell.metric):
                    numbers = [f"{number:.10g}" for number in (metric.value, metric.low, metric.high)]
                    numbers += [str(metric.n), metric.unit, metric.better]
                    where = (group.text.name, group.text.split) if group.text else ("", "")
                    writer.writerow([*_machine(summary), *where, row.label, kind, standing, column.key, *numbers])
    return out.getvalue()


def _machine(summary: Summary) -> tuple[str | int, ...]:
    here = summary.environment
    versions = (here.processor, here.device, here.threads, here.flyweight, here.torch)
    return (summary.name, summary.seed, summary.created.isoformat(), *versions)


def _ms(value: float) -> str:
    return f"{value:.3g}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COLUMNS = (
    Column("bits_per_byte", "bits/byte", "bits per byte of raw text, lower is better", 1, _bits_per_byte),
    Column("perplexity", "ppl", "perplexity per token of this tokenizer, lower is better", 4, _perplexity, ranked=False),
    Column("parameters", "params", "parameters stored", 5, _parameters, ranked=False),
    Column("disk_bytes", "on disk", "size of the model's folder", 2, _disk),
    Column("forward_ms", "fwd ms", "one forward pass, median", 9, _measured("forward_ms", _ms)),
    Column("decode_tokens_per_s", "tok/s", "tokens generated per second, median", 3, _measured("decode_tokens_per_s", _rate)),
    Column("peak_bytes", "memory", "peak memory over the interpreter's own", 8, _measured("peak_bytes", format_size)),
    Column(
        "training_flops", "FLOPs", "training FLOPs, own and total", 7, _trained("flops", "FLOPs", format_count), ranked=False
    ),
    Column("training_seconds", "time", "training time, own and total", 10, _trained("seconds", "s", short_time), ranked=False),
    Column("audit", "audit", "the checks without which a number is worth nothing", 6, _audit, ranked=False),
    Column("nll", "NLL", "nats per token", 0, _evaluated("nll")),
    Column("word_perplexity", "word ppl", "perplexity per word of the corpus", 0, _evaluated("word_perplexity")),
    Column("prefill_tokens_per_s", "prefill", "prompt tokens read per second", 0, _measured("prefill_tokens_per_s", _rate)),
    Column("weight_bytes", "weights", "bytes of the weights in memory", 0, _measured("weight_bytes", format_size)),
    Column("training_total_flops", "total FLOPs", "training FLOPs with teachers and parents", 0, _total("flops", "FLOPs")),
    Column("training_total_seconds", "total time", "training seconds with teachers and parents", 0, _total("seconds", "s")),
)
