"""Which model to take, as lines for a terminal: first in every answer about a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from flyweight.reports.findings.advice import Advice, advise
from flyweight.reports.models import Group


def lines(groups: Sequence[Group]) -> list[Any]:
    """Return a run's advice: for every text which model to take, the other choices, what to know."""
    shown: list[Any] = []
    for found in advise(groups):
        shown += ["", *_one(found)]
    return shown


def _one(found: Advice) -> list[Any]:
    style = "bold yellow" if found.kind == "warning" else "bold green"
    notes = [
        Text(_plain(note), "yellow" if found.kind == "warning" else "") for note in found.notes
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("left", "left", "right", "right", "right"):
        table.add_column(justify=justify)
    for choice in found.choices:
        role = Text(", ".join(choice.roles), "dim")
        table.add_row(role, choice.ranked.label, choice.size, choice.bits, choice.speed)
    choices = [table] if found.choices else []
    return [Text(_plain(found.title), style), *choices, *notes]


def _plain(text: str) -> str:
    return text.replace("`", "")
