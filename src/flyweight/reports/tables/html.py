"""The tables of runs and studies as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from flyweight.core.notebook import html_table
from flyweight.records.run_summary import Summary
from flyweight.records.study_summary import StudySummary
from flyweight.reports.models import Group, groups, ranked_models
from flyweight.reports.tables import run as tables, study as study_tables
from flyweight.reports.tables.run import Cell


def of_run(summary: Summary) -> str:
    """Return a run's tables of models, one for each text that they were measured on."""
    return "".join(_group(group) for group in groups(ranked_models([summary])))


def _group(group: Group) -> str:
    table = tables.table(group)
    rows = [
        [
            escape(row.label),
            *(
                _cell(column.cell(row), (row.label, column.key) in table.best)
                for column in table.columns
            ),
        ]
        for row in table.rows
    ]
    return html_table(
        ["model", *(column.title for column in table.columns)], rows, tables.legend(table)
    )


def of_study(summary: StudySummary) -> str:
    """Return a study's tables, one for each text, and the verdicts on its claims."""
    parts = []
    for table in study_tables.tables(summary):
        rows = [
            [
                escape(row.label),
                *(
                    _cell(
                        column.text(row), column.key == summary.metrics[0] and _in_front(row, table)
                    )
                    for column in table.columns
                ),
            ]
            for row in table.rows
        ]
        parts.append(html_table([table.data, *(column.title for column in table.columns)], rows))
    claims = [f"{finding.verdict}: {finding.claim}" for finding in summary.findings]
    return "".join([*parts, *(f"<p>{escape(claim)}</p>" for claim in claims)])


def _in_front(row: study_tables.Row, table: study_tables.Table) -> bool:
    return row.cell is not None and row.cell.name in table.front


def _cell(cell: Cell | None, best: bool) -> str:
    if cell is None:
        return ""
    text = f"<b>{escape(cell.text)}</b>" if best else escape(cell.text)
    return f"{text}<br><small>{escape(cell.sub)}</small>" if cell.sub else text
