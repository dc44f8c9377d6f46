"""Show plans in Python.

They are short in a list, and the command line's table when printed or in a notebook.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from flyweight.config.units import format_time
from flyweight.core.notebook import plain_text
from flyweight.tables import engine
from flyweight.visible import visible

if TYPE_CHECKING:
    from rich.text import Text

    from flyweight.tables.engine import Table
    from flyweight.tables.plain import Cells


class Shown(ABC):
    """Base of plans: `print(plan)` and a notebook show what `flyweight plan` prints."""

    @abstractmethod
    def verdict(self) -> Sequence[Text | str]:
        """Return what comes first: whether it fits, and what all of it needs."""

    @abstractmethod
    def table(self) -> Table[Cells] | None:
        """Return the needs row by row, None where nothing is left to plan."""

    @abstractmethod
    def remarks(self) -> Sequence[str]:
        """Return what else has to be known, such as what was assumed."""

    def __repr__(self) -> str:
        name = getattr(self, "name", "")
        faults = getattr(self, "faults", ())
        fits = f": {len(faults)} fault{'s' * (len(faults) != 1)}" if faults else ""
        label = f" {name}" if name else ""
        return f"<{type(self).__name__}{label}{fits}; print it for its table>"

    def __str__(self) -> str:
        table = self.table()
        drawn = [] if table is None else ["", engine.terminal(table), ""]
        return plain_text([*self.verdict(), *drawn, *self.remarks()])

    def _repr_html_(self) -> str:
        table = self.table()
        above = "".join(_paragraph(str(line)) for line in self.verdict())
        below = "".join(map(_paragraph, self.remarks()))
        return above + ("" if table is None else engine.html(table)) + below


def _paragraph(text: str) -> str:
    return f"<p>{escape(visible(text))}</p>"


def estimated(seconds: float) -> str:
    """Return an estimated time in words: whole seconds from ten on."""
    if seconds < 0.05:
        return "under 0.1 s"
    return format_time(float(round(seconds)) if seconds >= 10 else round(seconds, 1))
