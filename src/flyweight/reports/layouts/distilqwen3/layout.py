"""DistilQwen3's parts in the order of a page: claims, then figures, models and experiments."""

from __future__ import annotations

from flyweight.records.run_summary import Summary
from flyweight.reports.layouts.content import LayoutContent
from flyweight.reports.layouts.distilqwen3.claims import claims
from flyweight.reports.layouts.distilqwen3.experiments import experiments
from flyweight.reports.layouts.distilqwen3.figures import figures
from flyweight.reports.layouts.distilqwen3.models import side_by_side
from flyweight.reports.layouts.measured_run import MeasuredRun


def distilqwen3(summary: Summary) -> LayoutContent:
    """Return the poster's claims and figures, filled from a run."""
    run = MeasuredRun(summary)
    parts = (claims(run), *figures(run), side_by_side(run), experiments(run))
    return LayoutContent("distilqwen3", "DistilQwen3: the poster's claims and figures", parts)
