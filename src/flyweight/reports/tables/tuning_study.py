"""The tables of a study of fine-tuning, one for each task, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flyweight.config.metrics import MetricKind, metric_kind
from flyweight.config.units import format_count, format_short_time, format_size
from flyweight.core.student import student
from flyweight.records.metric import Metric
from flyweight.records.study_summary import LEAST_SEEDS, Spread
from flyweight.records.tuning_study import (
    BaseScores,
    MethodComparison,
    StudiedTask,
    TunedCell,
    TuningStudySummary,
)
from flyweight.reports.tables.csv_text import csv_text
from flyweight.tables import engine
from flyweight.tables.engine import Cell, Column, Row, Table, shown_columns
from flyweight.tables.markdown import text as plain
from flyweight.tables.plain import Cells, plain_table
from flyweight.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERVALS = (
    "Means over seeds. Ranges of trained models are 95 % Student t intervals over at least three "
    "seeds; those of bases and floors are 95 % intervals over contexts."
)
BEST = (
    "Bold: on its base the best mean, or not significantly worse than it, seed by seed (not "
    "corrected for the number of methods)."
)
PER = (
    "Gain: what the deciding metric gained over the untouched base; positive is better. Its ranges "
    "are over seeds."
)


@dataclass(frozen=True)
class TuningSubject:
    """What one row is about: a condition, an untouched base, or the task's floor."""

    task: StudiedTask
    cell: TunedCell | None = None
    untouched: BaseScores | None = None
    own_nll: float | None = None
    """The loss of the row's base on its own text."""


def tables(summary: TuningStudySummary) -> dict[str, Table[TuningSubject]]:
    """Return the tables by the name of their task."""
    return {task.name: table(summary, task) for task in summary.tasks}


def table(
    summary: TuningStudySummary, task: StudiedTask, costs: bool = True
) -> Table[TuningSubject]:
    """Return a task's table: base by base the untouched model and every method, then the floor.

    Without `costs`, what a method takes is left to `gains`.
    """
    rows = rows_of(summary, task)
    columns = [*_quality(task), *(COSTS if costs else ())]
    best = frozenset(
        (cell.name, task.decides)
        for base in summary.bases
        for cell in best_cells(
            [each for each in _cells(summary, task) if each.base == base.name], task
        )
    )
    notes = [INTERVALS, *([BEST] if best else []), f"The floor is {task.floor_about}."]
    shown = shown_columns(columns, rows)
    named = tuple((note, frozenset[str]()) for note in notes)
    return Table(f"task-{task.name}", shown, tuple(rows), best, named)


def gains(
    summary: TuningStudySummary, task: StudiedTask, costs: bool = False
) -> Table[TuningSubject]:
    """Return what a gain over the untouched base costs: for each unit of what was spent.

    With `costs`, what was spent stands before it.
    """
    rows = [row for row in rows_of(summary, task) if row.of.cell is not None]
    columns = [
        *(COSTS if costs else ()),
        Column("gain", "gain", f"gain in {task.decides}", _gain_per(summary, None), priority=1),
        *(
            Column(key, title, f"gain for each {about}", _gain_per(summary, divisor), priority=2)
            for key, title, about, divisor in PER_UNIT
        ),
    ]
    notes = ((PER, frozenset[str]()),)
    return Table(f"gain-{task.name}", shown_columns(columns, rows), tuple(rows), notes=notes)


def against_full(summary: TuningStudySummary) -> Table[Cells] | None:
    """Return each method minus full fine-tuning by task; None where nothing can be compared.

    A difference is decided where its p-value says so after the correction for all of them.
    """
    decided = {
        (each.base, each.method, each.task): each
        for each in summary.comparisons
        if each.difference is not None
    }
    if not decided:
        return None
    tasks = [task.name for task in summary.tasks]
    rows = [
        (
            f"{method} on {base}",
            [_compared(decided.get((base, method, task))) for task in tasks],
        )
        for base, method in dict.fromkeys((base, method) for base, method, _ in decided)
    ]
    about = {
        task.name: f"difference in {metric_kind(task.decides).title}" for task in summary.tasks
    }
    return plain_table(("method", *tasks), rows, about=about)


def _compared(comparison: MethodComparison | None) -> Cell:
    """Return a difference with its interval; it is quiet where it is undecided."""
    if comparison is None or comparison.difference is None:
        return Cell("")
    difference, p = comparison.difference, comparison.p_corrected
    text = f"{difference.value:+.3f}"
    sub = f"{difference.low:+.3f} to {difference.high:+.3f}"
    if p is None or p > 0.05 or difference.verdict == "undecided":
        return Cell(text, sub, tone="quiet")
    return Cell(f"{difference.verdict} {text}", f"{sub}, p = {p:.2g}")


def _cells(summary: TuningStudySummary, task: StudiedTask) -> list[TunedCell]:
    return [cell for cell in summary.cells if cell.task == task.name]


def rows_of(summary: TuningStudySummary, task: StudiedTask) -> list[Row[TuningSubject]]:
    """Return the rows of a task."""
    rows: list[Row[TuningSubject]] = []
    for base in summary.bases:
        rows += [
            Row(
                f"base:{each.base}",
                f"{each.base}, untouched",
                TuningSubject(task, untouched=each, own_nll=base.own_nll),
            )
            for each in summary.untouched
            if each.task == task.name and each.base == base.name
        ]
        rows += [
            Row(
                cell.name,
                f"{cell.method} on {cell.base}",
                TuningSubject(task, cell, own_nll=base.own_nll),
                "ok" if cell.sound else "invalid",
            )
            for cell in _cells(summary, task)
            if cell.base == base.name
        ]
    name = task.floor.replace("_", " ")
    return [*rows, Row(f"floor:{task.floor}", name, TuningSubject(task), "floor")]


def best_cells(cells: Sequence[TunedCell], task: StudiedTask) -> list[TunedCell]:
    """Return the best cell by the deciding metric, and those not significantly worse.

    Empty where all are alike, or where fewer than two have a mean.
    """
    sign = metric_kind(task.decides).sign
    means = {cell.name: spread.mean for cell in cells if (spread := cell.spread(task.decides))}
    sound = [cell for cell in cells if cell.name in means]
    if len(sound) < 2:
        return []
    first = min(sound, key=lambda cell: sign * means[cell.name])
    best = [cell for cell in sound if cell is first or not _worse(cell, first, task)]
    return best if len(best) < len(sound) else []


def _worse(cell: TunedCell, first: TunedCell, task: StudiedTask) -> bool:
    """Whether a cell is worse than the best one, seed by seed."""
    sign, metric = metric_kind(task.decides).sign, task.decides
    ours = {run.seed: run.metrics[metric] for run in cell.runs}
    theirs = {run.seed: run.metrics[metric] for run in first.runs}
    differences = [sign * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs]
    if len(differences) < LEAST_SEEDS:
        return False
    return student(differences)[1] > 0


def _quality(task: StudiedTask) -> list[Column[TuningSubject]]:
    metrics = list(dict.fromkeys((task.decides, *task.shown)))
    return [
        *(
            Column(
                key=name,
                title=metric_kind(name).title,
                about=metric_kind(name).about,
                value=_metric(name),
                better=metric_kind(name).better,
                ranked=name == task.decides,
                priority=1 if name == task.decides else 6,
            )
            for name in metrics
        ),
        Column(
            key="floor",
            title="floor",
            about="runs that a paired test finds above the task's floor",
            value=_above_floor,
            priority=3,
        ),
        Column(
            key="validation_nll",
            title="dev. NLL",
            about="nats per completion token of the development rows, at the kept step",
            value=_loss("validation_nll"),
            better="lower",
            priority=4,
        ),
        Column(
            key="train_nll",
            title="train NLL",
            about="nats per completion token of the last tenth of training",
            value=_loss("train_nll"),
            priority=9,
        ),
        Column(
            key="retained_nll",
            title="own text",
            about="nats per token of the base's own text: what training on the task has forgotten",
            value=_retained,
            better="lower",
            priority=5,
        ),
    ]


# --- values ---


def _of_cell(text: Callable[[TunedCell], str]) -> Callable[[TuningSubject], Cell | None]:
    def value(line: TuningSubject) -> Cell | None:
        if line.cell is None or not line.cell.finished:
            return None
        shown = text(line.cell)
        return Cell(shown) if shown else None

    return value


def _metric(name: str) -> Callable[[TuningSubject], Cell | None]:
    kind = metric_kind(name)

    def value(line: TuningSubject) -> Cell | None:
        if line.cell is not None:
            return _spread_cell(line.cell.spread(name), kind)
        held = line.untouched.metrics if line.untouched else line.task.floor_metrics
        metric = held.get(name)
        if metric is None:
            return None
        return Cell(kind.written(metric.value), kind.interval(metric.low, metric.high))

    return value


def _spread_cell(spread: Spread | None, kind: MetricKind) -> Cell | None:
    if spread is None:
        return None
    return Cell(kind.written(spread.mean), kind.interval(spread.low, spread.high))


def _above_floor(line: TuningSubject) -> Cell | None:
    if line.untouched is not None:
        above, of = int(line.untouched.standing == "above"), 1
    elif line.cell is not None:
        above = sum(run.standing == "above" for run in line.cell.runs)
        of = len(line.cell.runs)
    else:
        return None
    if of == 1:
        return Cell("above" if above else "not above", tone="pass" if above else "quiet")
    return Cell(f"{above} of {of}", tone="pass" if above == of else "quiet")


def _loss(
    name: Literal["train_nll", "validation_nll"],
) -> Callable[[TuningSubject], Cell | None]:
    def value(line: TuningSubject) -> Cell | None:
        return _spread_cell(line.cell.losses(name), metric_kind("nll")) if line.cell else None

    return value


def _retained(line: TuningSubject) -> Cell | None:
    if line.cell is not None:
        return _spread_cell(line.cell.losses("retained_nll"), metric_kind("nll"))
    if line.untouched is None or line.own_nll is None:
        return None
    return Cell(metric_kind("nll").written(line.own_nll))


COSTS: tuple[Column[TuningSubject], ...] = (
    Column(
        key="trainable",
        title="trained",
        about="numbers that training moves",
        value=_of_cell(lambda cell: format_count(cell.trainable)),
        better="lower",
        priority=2,
    ),
    Column(
        key="added_bytes",
        title="added",
        about="bytes to store beside the base",
        value=_of_cell(lambda cell: format_size(cell.added_bytes)),
        better="lower",
        priority=8,
    ),
    Column(
        key="peak_bytes",
        title="train mem",
        about="peak memory of training in a fresh process, beside Python's own",
        value=_of_cell(lambda cell: format_size(cell.peak_bytes) if cell.peak_bytes else ""),
        better="lower",
        priority=7,
    ),
    Column(
        key="planned_bytes",
        title="planned",
        about="memory that training was planned with",
        value=_of_cell(lambda cell: format_size(cell.planned_bytes) if cell.planned_bytes else ""),
        priority=9,
    ),
    Column(
        key="seconds",
        title="time",
        about="training time of a run",
        value=_of_cell(lambda cell: format_short_time(cell.seconds)),
        better="lower",
        priority=7,
    ),
)
"""What a method takes."""

PER_UNIT: tuple[tuple[str, str, str, Callable[[TunedCell], float]], ...] = (
    (
        "per_trainable",
        "per 1,000 trained",
        "1,000 numbers trained",
        lambda cell: cell.trainable / 1e3,
    ),
    ("per_stored", "per MB added", "megabyte stored", lambda cell: cell.added_bytes / 1e6),
    ("per_second", "per second", "second of training", lambda cell: cell.seconds),
    ("per_peak", "per 100 MB", "100 MB of peak memory", lambda cell: (cell.peak_bytes or 0) / 1e8),
)
"""What a gain is divided by: key, title, words, and how much of it a cell took."""


def gain(summary: TuningStudySummary, cell: TunedCell) -> Spread | None:
    """Return what the deciding metric gained over the untouched base; positive is better."""
    metric = summary.task(cell.task).decides
    before = next(
        (
            each.metrics[metric].value
            for each in summary.untouched
            if each.base == cell.base and each.task == cell.task and metric in each.metrics
        ),
        None,
    )
    spread = cell.spread(metric)
    if before is None or spread is None:
        return None
    sign = -metric_kind(metric).sign
    return Spread.of([sign * (run.metrics[metric] - before) for run in cell.runs])


def _gain_per(
    summary: TuningStudySummary, divisor: Callable[[TunedCell], float] | None
) -> Callable[[TuningSubject], Cell | None]:
    def value(line: TuningSubject) -> Cell | None:
        if line.cell is None or (gained := gain(summary, line.cell)) is None:
            return None
        by = divisor(line.cell) if divisor else 1.0
        if not by:
            return None
        ends = (None if end is None else end / by for end in (gained.low, gained.high))
        low, high = ends
        sub = "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
        return Cell(f"{gained.mean / by:.3g}", sub)

    return value


# --- writers ---


def terminal(summary: TuningStudySummary, width: int = 100) -> list[RenderableType]:
    """Return the tables for a terminal of `width` columns."""
    return [engine.terminal(built, width, title=name) for name, built in tables(summary).items()]


def markdown(summary: TuningStudySummary) -> str:
    """Return the tables in Markdown, with what is not a result and why below each."""
    lines, notes, words = [], {}, {}
    for task in summary.tasks:
        built = table(summary, task)
        bad = [cell for cell in _cells(summary, task) if not cell.sound]
        lines += [f"## {plain(task.name)}", "", *engine.markdown(built), ""]
        lines += [f"- {plain(f'{cell.name}: {cell.runs[0].why}')}" for cell in bad]
        lines += [*([""] if bad else []), *engine.markdown(gains(summary, task)), ""]
        notes |= dict.fromkeys((*built.legend(), PER))
        words[engine.explained(built)] = None
    how = plain(f"{summary.limit_line}; seeds {', '.join(map(str, summary.seeds))}.")
    lines += ["\n\n".join([how, " ".join(notes), *words]), ""]
    return visible("\n".join(lines) + "\n")


HEAD = (
    *("study", "created", "processor", "device", "threads", "flyweight", "torch"),
    *("task", "base", "method", "about", "seed", "trainable", "adapter_bytes", "peak_bytes"),
    *("planned_bytes", "flops", "seconds", "train_nll", "validation_nll", "retained_nll"),
    *("metric", "score", "low", "high", "standing"),
)


def long_csv(summary: TuningStudySummary) -> str:
    """Return every number in long form: a line for each run and metric, then bases and floors."""
    here = summary.environment
    machine = (here.processor, here.device, here.threads, here.flyweight, here.torch)
    fixed = (summary.name, summary.created.isoformat(), *machine)
    lines: list[Sequence[object]] = [HEAD]
    for cell in summary.cells:
        where = (cell.task, cell.base, cell.method, cell.about)
        held = (cell.trainable, cell.added_bytes, cell.peak_bytes or "", cell.planned_bytes or "")
        for run in cell.runs:
            losses = (run.train_nll, run.validation_nll, run.retained_nll)
            spent = (f"{run.flops:.10g}", f"{run.seconds:.6g}", *map(_written, losses))
            for metric, value in run.metrics.items() or [("", None)]:
                score = (metric, _written(value), "", "", run.standing if run.id else run.why)
                lines.append((*fixed, *where, run.seed, *held, *spent, *score))
    for each in summary.untouched:
        own = _written(summary.base(each.base).own_nll)
        blank = (each.task, each.base, "untouched", "", "", 0, 0, "", "", 0, 0, "", "", own)
        lines += [
            (*fixed, *blank, name, *_ends(metric), each.standing)
            for name, metric in each.metrics.items()
        ]
    for task in summary.tasks:
        blank = (task.name, "", task.floor, "", "", *[""] * 9)
        lines += [
            (*fixed, *blank, name, *_ends(metric), "floor")
            for name, metric in task.floor_metrics.items()
        ]
    return csv_text(lines)


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def _ends(metric: Metric) -> tuple[str, ...]:
    return tuple(f"{value:.10g}" for value in (metric.value, metric.low, metric.high))
