"""The layouts by name, and the content of the one that a run asks for."""

from __future__ import annotations

from collections.abc import Callable

from flyweight.config.layouts import LayoutName
from flyweight.records.run_summary import Summary
from flyweight.reports.layouts.content import LayoutContent
from flyweight.reports.layouts.distilqwen3.layout import distilqwen3
from flyweight.reports.layouts.lightgpt2.layout import lightgpt2

LAYOUTS: dict[LayoutName, Callable[[Summary], LayoutContent]] = {
    "lightgpt2": lightgpt2,
    "distilqwen3": distilqwen3,
}
"""How each layout is filled from a run's summary."""


def layout_of(summary: Summary) -> LayoutContent | None:
    """Return the layout of a run, filled; None where its recipe asked for none."""
    return None if summary.layout is None else LAYOUTS[summary.layout](summary)
