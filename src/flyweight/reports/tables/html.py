"""The verdicts and tables of runs and studies as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from flyweight.records.run_summary import Summary
from flyweight.records.study_summary import StudySummary
from flyweight.reports.findings.advice import Advice
from flyweight.reports.findings.study import study_advice
from flyweight.reports.report import RunReport
from flyweight.reports.tables import run as run_tables, study as study_tables
from flyweight.tables import engine
from flyweight.visible import visible


def of_run(summary: Summary) -> str:
    """Return a run's verdicts and tables, one of each for every text that was measured on."""
    report = RunReport((summary,))
    parts = zip(report.groups, report.advice, strict=True)
    models = [_verdict(advice) + engine.html(run_tables.table(group)) for group, advice in parts]
    tables = [engine.html(table, title) for title, table in report.task_tables]
    return "".join([*models, *tables])


def of_study(summary: StudySummary) -> str:
    """Return a study's verdict, the verdicts on its claims, and its tables, one for each text."""
    claims = [f"{finding.verdict}: {finding.claim}" for finding in summary.findings]
    parts = [engine.html(table, data) for data, table in study_tables.tables(summary).items()]
    verdict = _verdict(study_advice(summary))
    return "".join([verdict, *(f"<p>{_text(claim)}</p>" for claim in claims), *parts])


def _verdict(advice: Advice | None) -> str:
    return "" if advice is None else f"<p><b>{_text(advice.title.replace('`', ''))}</b></p>"


def _text(text: str) -> str:
    return escape(visible(text))
