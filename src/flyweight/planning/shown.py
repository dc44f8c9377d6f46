"""Show plans in Python.

They are short in a list, and the command line's table when printed or in a notebook.
"""

from __future__ import annotations

from typing import Any

from flyweight.core.notebook import html_of, plain_text


class Shown:
    """Base of plans: `print(plan)` and a notebook show the lines of `flyweight plan`."""

    def __repr__(self) -> str:
        name = getattr(self, "name", "")
        faults = getattr(self, "faults", ())
        fits = f": {len(faults)} fault{'s' * (len(faults) != 1)}" if faults else ""
        label = f" {name}" if name else ""
        return f"<{type(self).__name__}{label}{fits}; print it for its table>"

    def __str__(self) -> str:
        return plain_text(self._lines())

    def _repr_html_(self) -> str:
        table, *notes = self._lines()
        return html_of(table, map(str, notes))

    def _lines(self) -> list[Any]:
        from flyweight.planning import lines

        return lines.lines(self)  # pyright: ignore[reportArgumentType]
