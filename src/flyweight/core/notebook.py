"""What notebooks show of results: HTML tables, and data frames where pandas is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from flyweight.errors import RequestError
from flyweight.visible import visible

if TYPE_CHECKING:
    import pandas


def html_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()
) -> str:
    """Return an HTML table: the cells are HTML already, heads and notes are plain text.

    The first column is set as text, the others as numbers.
    """
    head = "".join(f"<th>{escape(visible(title))}</th>" for title in heads)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    below = "".join(f"<p>{escape(visible(note))}</p>" for note in notes)
    start = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f"<table>{start}<tbody>{body}</tbody></table>{below}"


def _cells(row: Sequence[str]) -> str:
    first, *rest = row
    numbers = "".join(f"<td>{cell}</td>" for cell in rest)
    return f'<td style="text-align:left">{first}</td>{numbers}'


def plain_text(lines: Iterable[object], width: int = 100) -> str:
    """Return text lines and tables of a terminal as plain text of at most `width` columns."""
    import io

    from flyweight.core.console import Terminal

    out = io.StringIO()
    console = Terminal(file=out, width=width)
    for line in lines:
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def frame(rows: Sequence[Mapping[str, object]], index: str) -> pandas.DataFrame:
    """Return rows as a data frame; raise RequestError where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise RequestError("to_pandas needs pandas: pip install pandas") from error
    return pandas.DataFrame(list(rows)).set_index(index)


def with_interval(
    name: str, value: float | None, low: float | None, high: float | None
) -> dict[str, float | None]:
    """Return a number as three columns: `name`, `name_low` and `name_high`."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}
