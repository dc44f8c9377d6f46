"""The page of a finished study of fine-tuning, with its tables in Markdown and CSV beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.core.files import write_text
from flyweight.records.tuning_study import StudiedTask, TuningStudySummary
from flyweight.reports.figures import tuning_study as figures
from flyweight.reports.figures.run import SHAPES, Drawing
from flyweight.reports.findings.tuning_study import tuning_advice
from flyweight.reports.pages.shell import (
    CSV,
    MARKDOWN,
    PAGE,
    Mark,
    is_page,
    refuse_place,
    render as render_page,
    standalone,
)
from flyweight.reports.tables import tuning_study as tables
from flyweight.tables.engine import Table


@dataclass(frozen=True)
class TaskSection:
    """Everything about one task of the study."""

    task: StudiedTask
    table: Table[tables.TuningSubject]
    gains: Table[tables.TuningSubject]
    figures: list[Drawing]


def write(folder: Path, out: Path | None = None) -> Path:
    """Write `report.html`, `table.md`, `table.csv` and the figures as SVG into a study's folder.

    Returns the page's path. `out` is another folder for them, or the page alone where it ends in
    `.html`. Raises RequestError where the folder has no study, FlyweightError where it is damaged
    or the files cannot be written.
    """
    summary = TuningStudySummary.read(folder)
    if out is not None:
        refuse_place(out)
        if is_page(out):
            write_text(out, render(summary))
            return out
        folder = out
    write_text(folder / MARKDOWN, tables.markdown(summary))
    write_text(folder / CSV, tables.long_csv(summary))
    for task in summary.tasks:
        for drawing in figures.drawings(summary, task, f"{task.name}-"):
            write_text(folder / f"{drawing.key}.svg", standalone(drawing))
    write_text(folder / PAGE, render(summary))
    return folder / PAGE


def render(summary: TuningStudySummary) -> str:
    """Return the page of a study of fine-tuning."""
    sections = [
        TaskSection(
            task,
            tables.table(summary, task, costs=False),
            tables.gains(summary, task, costs=True),
            figures.drawings(summary, task, f"{task.name}-"),
        )
        for task in summary.tasks
    ]
    styles = figures.TuningStyles(summary)
    marks = {
        cell.name: Mark.of(styles.methods[cell.method], styles.marker(cell))
        for cell in summary.cells
    }
    names = {f"{cell.method} on {cell.base}": marks[cell.name] for cell in summary.cells}
    shown: list[Table[Any]] = [section.table for section in sections]
    return render_page(
        "tuning_study.html",
        title=f"{summary.name}: flyweight study",
        tables=shown,
        marks=marks,
        names=names,
        summary=summary,
        advice=tuning_advice(summary),
        sections=sections,
        runs=sum(len(cell.runs) for cell in summary.cells),
        bad=[cell for cell in summary.cells if not cell.sound],
        against=tables.against_full(summary),
        comparisons=sum(each.difference is not None for each in summary.comparisons),
        shapes=SHAPES,
    )
