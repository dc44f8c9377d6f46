"""The verdict of a study: what became of its claims, and which cell is best on each text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count, format_flops
from flyweight.records.study_summary import CellSummary, StudySummary
from flyweight.reports.findings.advice import Advice, Choice, Figure, floor_note
from flyweight.reports.findings.phrases import and_list
from flyweight.reports.ranking import (
    cell_difference,
    ranked_cells,
    strongest_cell_floor,
    tied_best_cells,
)
from flyweight.reports.tables.study import label, main_metric

CHEAPEST = "cheapest of those not significantly worse"
VERDICTS = ("confirmed", "refuted", "undecided")
NAMED = 4
"""Cells of a tie that are named; the table marks them all."""


def study_advice(summary: StudySummary) -> Advice:
    """Return what a study says first: its claims by verdict, and the best cell on every text."""
    choices, notes = [], []
    for data in summary.corpus:
        cells = [cell for cell in summary.cells if cell.data == data]
        choices += _choices(summary, cells, data)
        notes += [*_floor(summary, cells, data), *_notes(summary, cells)]
    if not choices:
        reasons = [f"{cell.name}: {cell.why}." for cell in summary.cells if cell.why]
        title = _claims(summary) or "No cell of this study is a result."
        return Advice("warning", title, (), tuple(reasons[:NAMED]))
    taken = choices[0]
    title = _claims(summary) or f"Take `{taken.label}`: {taken.line}"
    return Advice("note", title, tuple(choices), tuple(notes))


def _claims(summary: StudySummary) -> str:
    """Return how many claims were confirmed, refuted and left undecided; empty without claims."""
    if not summary.findings:
        return ""
    counts = Counter(finding.verdict for finding in summary.findings)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    total = len(summary.findings)
    return f"{total} claim{'s' * (total != 1)}: {', '.join(parts)}."


def _choices(summary: StudySummary, cells: Sequence[CellSummary], data: str) -> list[Choice]:
    """Return the best cell of one text, and the cheapest of those that are as good."""
    metric, better = main_metric(summary)
    tied = tied_best_cells(cells, metric, better)
    if not tied:
        return []
    where = f" on {data}" if len(summary.corpus) > 1 else ""
    best = tied[0]
    cheapest = min(tied, key=lambda cell: cell.flops)
    chosen = [_choice(summary, best, f"best{where}")]
    if cheapest.flops < best.flops and cell_difference(cheapest, best, metric) is not None:
        chosen.append(_choice(summary, cheapest, f"{CHEAPEST}{where}"))
    return chosen


def _choice(summary: StudySummary, cell: CellSummary, role: str) -> Choice:
    metric, _ = main_metric(summary)
    wording, spread = metric_kind(metric), cell.spread(metric)
    assert spread is not None  # only results are ranked
    quality = f"{wording.written(spread.mean)} {wording.unit}"
    figures = (
        Figure("quality", quality, wording.interval(spread.low, spread.high)),
        Figure("training", format_flops(cell.flops)),
        Figure("size", f"{format_count(cell.parameters)} parameters"),
    )
    return Choice(cell.name, f"{label(cell)}, {cell.budget}", (role,), figures, _command(cell))


def _command(cell: CellSummary) -> str:
    """Return the command that uses the run of a cell that validation prefers."""

    def validation(run: tuple[str, float | None]) -> float:
        return math.inf if run[1] is None else run[1]

    runs = [(run.id, run.validation) for run in cell.finished if run.id is not None]
    return f"flyweight generate {min(runs, key=validation)[0]} Once" if runs else ""


def _floor(summary: StudySummary, cells: Sequence[CellSummary], data: str) -> list[str]:
    """Say so where no cell beats counting."""
    metric, better = main_metric(summary)
    ranked = ranked_cells(cells, metric, better)
    floors = summary.corpus[data].floors
    floor = strongest_cell_floor(ranked[0], floors, metric, better) if ranked else None
    if floor is None or floor.verdict == "better":
        return []
    return [floor_note(floor, "cell", metric_kind(metric).unit)]


def _notes(summary: StudySummary, cells: Sequence[CellSummary]) -> list[str]:
    """Say which cells are as good as the best, or that nothing can be decided."""
    metric, better = main_metric(summary)
    ranked, tied = (order(cells, metric, better) for order in (ranked_cells, tied_best_cells))
    others = tied[1:]
    if not others:
        return []
    if len(tied) == len(ranked) and not any(
        cell_difference(cell, tied[0], metric) for cell in others
    ):
        return ["Which cell is best is not decided: fewer than three seeds give no interval."]
    names = [f"`{label(cell)}, {cell.budget}`" for cell in others[:NAMED]]
    if len(others) > NAMED:
        names.append(f"{len(others) - NAMED} more")
    best = f"`{label(tied[0])}, {tied[0].budget}`"
    return [f"Not significantly worse than {best}: {and_list(names)}."]
