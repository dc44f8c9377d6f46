"""The page of finished runs, with its table in Markdown and CSV beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.config.layouts import LAYOUT_FOLDER
from flyweight.config.units import format_size
from flyweight.core.files import disk_errors, write_json, write_text
from flyweight.errors import RequestError
from flyweight.records.audit import Check
from flyweight.records.run_summary import BudgetLine, StageSummary, Summary
from flyweight.records.sample import Continuation
from flyweight.records.training_memory import format_error
from flyweight.records.tuning import Tuning
from flyweight.reports.figures import run as figures
from flyweight.reports.findings.advice import Advice, command
from flyweight.reports.findings.distillation import other_shape
from flyweight.reports.findings.memory import noted
from flyweight.reports.findings.run import budget_line
from flyweight.reports.findings.tuning import tuned_advice
from flyweight.reports.layouts.content import LayoutContent, LinkedFigure, reasons
from flyweight.reports.models import ModelGroup, RankedModel
from flyweight.reports.pages.shell import (
    CSV,
    MARKDOWN,
    PAGE,
    Mark,
    is_page,
    refuse_place,
    render as render_page,
)
from flyweight.reports.report import RunReport
from flyweight.reports.tables import run as run_tables
from flyweight.reports.tables.run_columns import RunSubject
from flyweight.reports.tuning import HEAD, change_cells, headline
from flyweight.tables import engine
from flyweight.tables.engine import Table

_CHIPS = {
    "paid": "paid",
    "not paid": "did not pay",
    "undecided": "undecided",
    "warning": "caution",
    "note": "note",
}


def write(run_folder: Path) -> Path:
    """Write `report.html`, `table.md` and `table.csv` into a finished run's folder.

    Returns the page's path. Raises RequestError where the folder has no summary, FlyweightError
    where it is damaged or the files cannot be written.
    """
    return _write_folder([Summary.read(run_folder)], run_folder)


def write_many(run_folders: Sequence[Path], out: Path) -> Path:
    """Write the same three files about one or several finished runs into the folder `out`.

    Returns the page's path. Where `out` ends in `.html` it is the page, and nothing else is
    written.
    """
    folders = list({folder.resolve(): folder for folder in run_folders}.values())
    if not folders:
        raise RequestError(
            "a report needs at least one run: name a finished run's folder, such as runs/quickstart"
        )
    refuse_place(out)
    summaries = [Summary.read(folder) for folder in folders]
    if not is_page(out):
        return _write_folder(summaries, out)
    write_text(out, render(summaries))
    return out


def _write_folder(summaries: Sequence[Summary], out: Path) -> Path:
    report = RunReport(tuple(summaries))
    tables = [run_tables.markdown(group) for group in report.groups]
    for title, table in report.task_tables:
        tables.append("\n".join([title, "", *engine.markdown(table), ""]))
    write_text(out / MARKDOWN, "\n".join(tables))
    if len(summaries) == 1:
        _write_layout(report, out / LAYOUT_FOLDER)
    write_text(out / CSV, run_tables.long_csv(report.groups))
    write_text(out / PAGE, render(summaries, report))
    return out / PAGE


def _write_layout(report: RunReport, folder: Path) -> None:
    """Write a run's layout as JSON; a link in its place is that of an earlier recipe's stage."""
    for _, content in report.layouts:
        with disk_errors(folder):
            if folder.is_symlink():
                folder.unlink()
        write_json(folder / f"{content.name}.json", content.json())


# --- what the template is given ---


@dataclass(frozen=True)
class LayoutSection:
    """A paper's tables and figures: drawings by part, and what each artifact is in the run."""

    run: str
    prefix: str
    content: LayoutContent
    drawings: dict[str, list[figures.Drawing]]
    origins: dict[str, str]

    @property
    def chips(self) -> dict[str, str]:
        """The looks of verdicts."""
        return {
            "reached": "paid",
            "not reached": "not-paid",
            "undecided": "undecided",
            "not measured": "note",
        }


@dataclass(frozen=True)
class RunSection:
    """Everything about the models of one text: which to take, table and figures."""

    group: ModelGroup
    advice: Advice | None
    table: Table[RunSubject]
    ranking: figures.Drawing | None
    quality: list[figures.Drawing]
    curves: list[tuple[figures.Drawing, ...]]
    """Each training figure against compute and against time: a switch shows one of them."""


@dataclass(frozen=True)
class AuditRow:
    """One check over all models, in their order.

    None where a model was not audited or lacks the check.
    """

    name: str
    bound: float | None
    cells: tuple[Check | None, ...]


@dataclass(frozen=True)
class Bar:
    """One line of a budget as a bar: shares of its limit, in percent, at most 100."""

    line: BudgetLine
    used: float
    planned: float | None
    text: str


def render(summaries: Sequence[Summary], report: RunReport | None = None) -> str:
    """Return the page about one or several runs.

    `report` is what is said about them, where it is there already.
    """
    report = report or RunReport(tuple(summaries))
    sections = [
        _section(group, advice, f"g{index}-")
        for index, (group, advice) in enumerate(zip(report.groups, report.advice, strict=True))
    ]
    audited = [each for each in report.models if each.model.audit]
    marks = {
        each.label: Mark.of(each.colour, figures.SHAPES[each.shape % len(figures.SHAPES)])
        for each in report.models
    }
    shown: list[Table[Any]] = [
        *(section.table for section in sections),
        *(table for _, table in report.task_tables),
    ]
    return render_page(
        "run.html",
        title=f"{_title(summaries)}: flyweight report",
        tables=shown,
        marks=marks,
        names=marks,
        filters={"reasons": reasons},
        report=report,
        layouts=[
            _layout(summary, content, f"paper{place}-")
            for place, (summary, content) in enumerate(report.layouts)
        ],
        single=len(summaries) == 1,
        sections=sections,
        other_shapes={each.label for each in report.models if other_shape(each, report.models)},
        samples=_samples(report.groups),
        tuned=tuned_advice([record for summary in summaries for record in summary.tuning]),
        tunings=[_tuning(record) for summary in summaries for record in summary.tuning],
        audited=audited,
        audit=_audit(audited),
        reasons=_reasons(audited),
        bars=[[_bar(line) for line in summary.budget] for summary in summaries],
        watched=[noted(summary) for summary in summaries],
        memory_cells=_memory_cells,
        headlines=[] if len(summaries) == 1 else [_headlines(part) for part in report.parts],
        commands=[_commands(part) for part in report.parts],
        chips=_CHIPS,
    )


def _title(summaries: Sequence[Summary]) -> str:
    names = " and ".join(summary.name for summary in summaries[:3])
    return f"{names} and others" if len(summaries) > 3 else names


def _section(group: ModelGroup, advice: Advice | None, prefix: str) -> RunSection:
    curves = figures.curves(group, prefix)
    return RunSection(
        group=group,
        advice=advice,
        table=run_tables.table(group, f"{prefix}models"),
        ranking=figures.ranking(group, prefix),
        quality=figures.quality(group, prefix),
        curves=[tuple(curves[at : at + 2]) for at in range(0, len(curves), 2)],
    )


def _layout(summary: Summary, content: LayoutContent, prefix: str) -> LayoutSection:
    """Return a run's layout with its figures drawn."""
    drawn = {
        part.key: part.drawings(prefix) for part in content.parts if isinstance(part, LinkedFigure)
    }
    names = {
        artifact: f"{kind} of {model.name}"
        for model in summary.models
        for kind, artifact in model.measured.items()
    }
    names |= {model.id: model.name for model in summary.models}
    names |= {stage.id: stage.name for stage in summary.stages}
    origins = {artifact: names.get(artifact, "") for artifact in content.artifacts()}
    return LayoutSection(summary.name, prefix, content, drawn, origins)


def _memory_cells(stage: StageSummary) -> list[str]:
    """Return the memory of a training as planned and used, and the plan's error; else blanks.

    Where other micro-batches ran than were planned, their number takes the place of the error.
    """
    memory = stage.memory
    if memory is None or memory.used is None:
        return ["", "", ""]
    error = memory.error
    compared = f"{memory.pieces} pieces ran" if error is None else format_error(error)
    return [format_size(memory.planned), format_size(memory.used), compared]


def _headlines(part: RunReport) -> list[str]:
    """Return which models to take from one of several runs."""
    return [advice.title for advice in part.advice if advice is not None]


@dataclass(frozen=True)
class TuningSection:
    """A fine-tuning in words, and the rows of its table before and after."""

    record: Tuning
    headline: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _tuning(record: Tuning) -> TuningSection:
    rows = [tuple(change_cells(change)) for change in record.changes]
    return TuningSection(record, headline(record), HEAD, rows)


SHOWN_SAMPLES = 3
"""Models whose samples stand open on the page; those of the others are folded."""


@dataclass(frozen=True)
class Samples:
    """Continuations of one prompt: those of the best models, and those of all others."""

    prompt: str
    best: list[tuple[RankedModel, Continuation]]
    rest: list[tuple[RankedModel, Continuation]]


def _samples(grouped: Sequence[ModelGroup]) -> list[Samples]:
    """Return the continuations of every prompt, best model first; the unranked come last."""
    by_prompt: dict[str, list[tuple[RankedModel, Continuation]]] = {}
    for group in grouped:
        unranked = [each for each in group.models if each.standing != "ok"]
        for each in (*group.rankable, *unranked):
            for sample in each.model.samples:
                by_prompt.setdefault(sample.prompt, []).append((each, sample))
    return [
        Samples(prompt, texts[:SHOWN_SAMPLES], texts[SHOWN_SAMPLES:])
        for prompt, texts in by_prompt.items()
    ]


def _audit(audited: Sequence[RankedModel]) -> list[AuditRow]:
    checks = [
        {check.name: check for check in each.model.audit.checks} if each.model.audit else {}
        for each in audited
    ]
    rows = []
    for name in dict.fromkeys(name for one in checks for name in one):
        cells = tuple(one.get(name) for one in checks)
        bounds = [cell.bound for cell in cells if cell and cell.bound is not None]
        rows.append(AuditRow(name, bounds[0] if bounds else None, cells))
    return rows


def _reasons(audited: Sequence[RankedModel]) -> list[tuple[str, str, str, list[str]]]:
    """Return (verdict, check, reason, models) for every check that failed or did not apply."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for each in audited:
        for check in each.model.audit.checks if each.model.audit else ():
            if check.verdict != "pass":
                reasons.setdefault((check.verdict, check.name, check.why), []).append(each.label)
    return [
        (*key, names)
        for key, names in sorted(reasons.items(), key=lambda item: item[0][0] != "fail")
    ]


def _commands(part: RunReport) -> list[str]:
    """Return what made a run, and how to try its best model."""
    rankable = [model for group in part.groups for model in group.rankable]
    best = (rankable or part.models)[0]
    return [part.summaries[0].command, command(best)]


def _bar(line: BudgetLine) -> Bar:
    whole = line.limit or max(line.used or 0.0, line.planned or 0.0) or 1.0
    planned = None if line.planned is None else min(100.0, 100 * line.planned / whole)
    return Bar(
        line,
        min(100.0, 100 * (line.used or 0.0) / whole),
        planned,
        budget_line(line).partition(": ")[2],
    )
