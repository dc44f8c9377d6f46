"""LightGPT2's parts in the order of a page: verdicts first, then tables, figures and factors."""

from __future__ import annotations

from flyweight.records.run_summary import Summary
from flyweight.reports.layouts.content import LayoutContent
from flyweight.reports.layouts.lightgpt2.figures import figures
from flyweight.reports.layouts.lightgpt2.tables import factors, tables
from flyweight.reports.layouts.lightgpt2.targets import targets
from flyweight.reports.layouts.measured_run import MeasuredRun


def lightgpt2(summary: Summary) -> LayoutContent:
    """Return LightGPT2's tables, figures and targets, filled from a run."""
    run = MeasuredRun(summary)
    parts = (targets(run), *tables(run), *figures(run), factors(run))
    return LayoutContent("lightgpt2", "LightGPT2: the paper's tables and figures", parts)
