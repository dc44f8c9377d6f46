"""Plain tables of the terminal: rows of ready cells, drawn by the engine that reports use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from flyweight.core.console import Terminal
from flyweight.tables import engine
from flyweight.tables.plain import Cells, plain_table


def drawn(
    heads: Sequence[str],
    rows: Sequence[tuple[str, Cells]],
    *,
    about: Mapping[str, str] | None = None,
    wraps: Sequence[str] = (),
    priorities: Mapping[str, int] | None = None,
    headed: bool = True,
) -> RenderableType:
    """Return the table of `plain_table` as wide as the terminal."""
    table = plain_table(heads, rows, about=about, wraps=wraps, priorities=priorities, headed=headed)
    return engine.terminal(table, Terminal().width)
