"""Papers whose tables and figures a report can have, by name."""

from __future__ import annotations

from typing import Literal

LayoutName = Literal["lightgpt2", "distilqwen3"]
"""A layout: `reports.layouts` draws it."""

LAYOUT_FOLDER = "report"
"""The folder in a run's folder that holds a layout's content as JSON."""
