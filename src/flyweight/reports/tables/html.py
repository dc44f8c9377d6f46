"""The tables of runs and studies as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from flyweight.records.run_summary import Summary
from flyweight.records.study_summary import StudySummary
from flyweight.reports.models import groups, ranked_models
from flyweight.reports.tables import engine, run as run_tables, study as study_tables


def of_run(summary: Summary) -> str:
    """Return a run's tables of models, one for each text that they were measured on."""
    grouped = groups(ranked_models([summary]))
    return "".join(engine.html(run_tables.table(group)) for group in grouped)


def of_study(summary: StudySummary) -> str:
    """Return a study's tables, one for each text, and the verdicts on its claims."""
    parts = [engine.html(table, data) for data, table in study_tables.tables(summary).items()]
    claims = [f"{finding.verdict}: {finding.claim}" for finding in summary.findings]
    return "".join([*parts, *(f"<p>{escape(claim)}</p>" for claim in claims)])
