"""The page of a finished study, with its table in Markdown and CSV beside it: self-contained, without scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flyweight.config.units import format_count
from flyweight.core.files import write_text
from flyweight.records.run_summary import CorpusSummary
from flyweight.records.study_summary import CellSummary, FindingSummary, StudySummary
from flyweight.reports.figures import study as study_plots
from flyweight.reports.figures.run import Drawing
from flyweight.reports.findings.phrases import FLOOR
from flyweight.reports.pages.run import (
    CSV,
    GLYPHS,
    MARKDOWN,
    PAGE,
    environment,
    is_page,
    markup,
    refuse_place,
    resource,
)
from flyweight.reports.tables import study as study_tables

CHIPS = {"confirmed": "paid", "refuted": "not-paid", "undecided": "undecided"}


@dataclass(frozen=True)
class Section:
    """Everything about the cells of one text."""

    corpus: CorpusSummary
    table: study_tables.Table
    figures: list[Drawing]


def write(folder: Path, out: Path | None = None) -> Path:
    """Write `report.html`, `table.md`, `table.csv` and the figures as SVG into a finished study's folder; return the page.

    `out` is another folder for them, or the page alone where it ends in `.html`. Raises
    RequestError where the folder has no study, FlyweightError where it is damaged or the files
    cannot be written.
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
    css = resource("page.css")
    figures = {f"{drawing.key}.svg": drawing for section in sections for drawing in section.figures}
    for name, drawing in figures.items():
        write_text(folder / name, _standalone(drawing, css))
    if out is None:  # a figure of an earlier result would stand beside this one's table
        for axis in study_plots.AXES:
            for old in folder.glob(f"*-{axis}.svg"):
                if old.name not in figures:
                    old.unlink()
    write_text(folder / PAGE, render(summary, sections))
    return folder / PAGE


def _sections(summary: StudySummary) -> list[Section]:
    made = []
    for table in study_tables.tables(summary):
        figures = study_plots.drawings(summary, table.data, f"{table.data}-")
        made.append(Section(summary.corpus[table.data], table, figures))
    return made


def _standalone(drawing: Drawing, css: str) -> str:
    """Return a figure as a file of its own: with the page's colours, which it otherwise takes from the style sheet."""
    colours = css.partition(".s0 ")[
        0
    ]  # the schemes of colours, light and dark, stand before everything else
    style = f"<style>{colours} svg {{ font-family: var(--sans); background: var(--paper) }}</style>"
    head, _, body = drawing.svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{body}\n'


def render(summary: StudySummary, sections: list[Section] | None = None) -> str:
    """Return the page of a study."""
    styles = study_plots.Styles(summary)
    counts = {
        verdict: sum(each.verdict == verdict for each in summary.findings) for verdict in CHIPS
    }
    bad = [cell for cell in summary.cells if cell.standing != "ok"]
    made = environment({})
    made.filters["lines"] = _lines
    return made.from_string(resource("study.html")).render(
        css=markup(resource("page.css")),
        summary=summary,
        sections=_sections(summary) if sections is None else sections,
        colours={cell.name: styles.of(cell).colour % 8 for cell in summary.cells},
        shapes={cell.name: GLYPHS[styles.of(cell).marker] for cell in summary.cells},
        counts=counts,
        chips=CHIPS,
        bad=bad,
        runs=sum(len(cell.runs) for cell in summary.cells),
        headline=_headline(summary, counts, bad),
        legend=study_tables.LEGEND,
        floor=FLOOR,
    )


def _headline(summary: StudySummary, counts: dict[str, int], bad: list[CellSummary]) -> str:
    """Return what the study says in one sentence."""
    if summary.findings:
        parts = [f"{count} {verdict}" for verdict, count in counts.items() if count]
        return (
            f"{len(summary.findings)} claim{'' if len(summary.findings) == 1 else 's'}: "
            f"{', '.join(parts)}."
        )
    sound = len(summary.cells) - len(bad)
    return (
        f"{sound} of {len(summary.cells)} cells are results."
        if bad
        else f"{sound} cells under one protocol."
    )


def _lines(finding: FindingSummary) -> list[str]:
    """Return a finding's comparisons as sentences."""
    said = []
    for contest in finding.contests:
        where = f"{contest.where}: " if contest.where else ""
        if contest.difference is None:
            said.append(f"{where}not tested: {contest.why}")
            continue
        numbers = f"{contest.difference:+.4f}"
        if contest.low is not None and contest.high is not None:
            p = (
                "p < 1e-12"
                if contest.p is not None and contest.p < 1e-12
                else f"p = {contest.p:.2g}"
            )
            numbers += f" ({contest.low:+.4f} to {contest.high:+.4f}, {p})"
        spent = [format_count(flops) for flops in (contest.below_flops, contest.above_flops)]
        how = (
            f" at {' and '.join(dict.fromkeys(spent))} "
            f"FLOPs{'' if contest.how == 'measured' else f', {contest.how}'}"
        )
        why = f"; {contest.why}" if contest.why else ""
        other = (
            contest.above if contest.factor == 1 else f"{contest.factor:g} times {contest.above}"
        )
        said.append(f"{where}{contest.below} minus {other}: {numbers}{how}; {contest.verdict}{why}")
    return said
