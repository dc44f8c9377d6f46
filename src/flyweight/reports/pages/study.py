"""The page of a finished study, with its table in Markdown and CSV and its figures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flyweight.config.units import decimals_of_difference, format_flops, format_p, format_signed
from flyweight.core.files import write_text
from flyweight.records.run_summary import CorpusSummary
from flyweight.records.study_summary import ClaimComparison, FindingSummary, StudySummary
from flyweight.reports.figures import study as figures
from flyweight.reports.figures.run import Drawing
from flyweight.reports.findings.study import study_advice
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
from flyweight.reports.tables import study as study_tables
from flyweight.tables.engine import Table

CHIPS = {"confirmed": "paid", "refuted": "not-paid", "undecided": "undecided"}


@dataclass(frozen=True)
class StudySection:
    """Everything about the cells of one text, which the study calls `data`."""

    data: str
    corpus: CorpusSummary
    table: Table[study_tables.StudySubject]
    figures: list[Drawing]


def write(folder: Path, out: Path | None = None) -> Path:
    """Write `report.html`, `table.md`, `table.csv` and the figures as SVG into a study's folder.

    Returns the page's path. `out` is another folder for them, or the page alone where it ends in
    `.html`. Raises RequestError where the folder has no study, FlyweightError where it is damaged
    or the files cannot be written.
    """
    summary = StudySummary.read(folder)
    if out is not None:
        refuse_place(out)
        if is_page(out):
            write_text(out, render(summary))
            return out
        folder = out
    write_text(folder / MARKDOWN, study_tables.markdown(summary))
    write_text(folder / CSV, study_tables.long_csv(summary))
    sections = _sections(summary)
    drawings = {f"{each.key}.svg": each for section in sections for each in section.figures}
    for name, drawing in drawings.items():
        write_text(folder / name, standalone(drawing))
    if out is None:  # a figure of an earlier result would stand beside this one's table
        for axis in figures.AXES:
            for old in folder.glob(f"*-{axis}.svg"):
                if old.name not in drawings:
                    old.unlink()
    write_text(folder / PAGE, render(summary, sections))
    return folder / PAGE


def _sections(summary: StudySummary) -> list[StudySection]:
    return [
        StudySection(
            data=data,
            corpus=summary.corpus[data],
            table=table,
            figures=figures.drawings(summary, data, f"{data}-"),
        )
        for data, table in study_tables.tables(summary).items()
    ]


def render(summary: StudySummary, sections: list[StudySection] | None = None) -> str:
    """Return the page of a study."""
    sections = _sections(summary) if sections is None else sections
    styles = figures.Styles(summary)
    marks = {
        cell.name: Mark.of(style.colour, style.marker)
        for cell in summary.cells
        for style in [styles.of(cell)]
    }
    names = {
        f"{study_tables.label(cell)}, {cell.budget}": marks[cell.name] for cell in summary.cells
    }
    return render_page(
        "study.html",
        title=f"{summary.name}: flyweight study",
        tables=[section.table for section in sections],
        marks=marks,
        names=names,
        filters={"lines": _lines},
        summary=summary,
        advice=study_advice(summary),
        sections=sections,
        better=study_tables.main_metric(summary)[1],
        chips=CHIPS,
        bad=[cell for cell in summary.cells if cell.standing != "ok"],
        runs=sum(len(cell.runs) for cell in summary.cells),
    )


def _lines(finding: FindingSummary) -> list[str]:
    """Return a finding's comparisons as sentences."""
    return [_line(contest) for contest in finding.contests]


def _line(contest: ClaimComparison) -> str:
    where = f"{contest.where}: " if contest.where else ""
    if contest.difference is None:
        return f"{where}not tested: {contest.why}"
    decimals = decimals_of_difference(contest.low or 0.0, contest.high or 0.0)
    numbers = format_signed(contest.difference, decimals)
    if contest.low is not None and contest.high is not None:
        low, high = (format_signed(end, decimals) for end in (contest.low, contest.high))
        tested = "" if contest.p is None else f", {format_p(contest.p)}"
        numbers += f" (95 % interval {low} to {high}{tested})"
    spent = [format_flops(flops) for flops in (contest.below_flops, contest.above_flops)]
    how = f" at {' and '.join(dict.fromkeys(spent))}"
    if contest.how != "measured":
        how += f", {contest.how}"
    other = contest.above
    if contest.factor != 1:
        other = f"{contest.factor:g} times {contest.above}"
    why = f"; {contest.why}" if contest.why else ""
    return f"{where}{contest.below} minus {other}: {numbers}{how}; {contest.verdict}{why}"
