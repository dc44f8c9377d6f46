"""One table for every place: columns are defined once, and each writer draws the same cells.

The terminal, Markdown, notebooks and the page all read a `Table`. In reports, which figures are
bold comes from `flyweight.reports.ranking` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from flyweight.core.notebook import html_table
from flyweight.records.metric import Metric
from flyweight.tables.markdown import text as plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

T = TypeVar("T")
Standing = Literal["ok", "collapsed", "too short", "invalid", "unmeasured", "floor", "heading"]

Tone = Literal["", "pass", "fail", "open", "quiet"]
TONES: dict[Tone, str] = {"pass": "green", "fail": "bold red", "open": "yellow", "quiet": "dim"}
"""Terminal styles of cells by tone; `open` is what is undecided."""
UNRANKED: tuple[Standing, ...] = ("collapsed", "too short", "invalid")
"""Standings that are shown beside a name: the row was measured and may not be ranked."""
STYLES = {
    "collapsed": "red",
    "too short": "yellow",
    "invalid": "red",
    "floor": "dim",
    "heading": "bold",
}
"""Terminal styles of names by standing."""
LONGEST_NAME = 28
"""Characters of a name before a terminal breaks it into lines."""
NARROWEST_TEXT = 16
"""Columns of a terminal that a column of sentences needs at least."""


@dataclass(frozen=True)
class Cell:
    """A figure as text, a smaller second line, and the number itself where there is one."""

    text: str
    sub: str = ""
    metric: Metric | None = None
    tone: Tone = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column: its title, what it means, how its numbers are written, which are better.

    `value` returns a Metric, which `format` writes, or a Cell, or None for an empty place.
    `better` is the direction in which a number is better, None where none is. A column that is
    `ranked` has bold figures. Where a terminal is too narrow, the highest `priority` goes first;
    0 stands in CSV only. A column that `wraps` holds sentences: it is set to the left and broken
    into lines.
    """

    key: str
    title: str
    about: str
    value: Callable[[T], Metric | Cell | None]
    format: Callable[[float], str] = str
    better: Literal["lower", "higher"] | None = None
    ranked: bool = False
    priority: int = 1
    wraps: bool = False

    def cell(self, of: T) -> Cell | None:
        """Return the cell of a row, None where nothing was measured."""
        value = self.value(of)
        if isinstance(value, Metric):
            return Cell(self.format(value.value), metric=value)
        return value

    @property
    def explanation(self) -> str:
        """What the column means, and which direction is better."""
        return f"{self.about}, {self.better} is better" if self.better else self.about


@dataclass(frozen=True)
class Row(Generic[T]):
    """One line. `key` is unique in its table; `of` is what the columns read."""

    key: str
    label: str
    of: T
    standing: Standing = "ok"


@dataclass(frozen=True)
class Table(Generic[T]):
    """Rows under the columns that have anything in them.

    `best` holds the (row key, column key) of bold figures. `notes` is what has to be known to read
    the table, each note with the keys of the columns that it is about; without keys it always
    holds. `name` begins the anchors of the rows on a page. `head` is the title of the rows' labels.
    A terminal breaks labels into lines unless they are `whole_labels`, which a reader copies. A
    table that is not `headed` needs no titles, as each of its figures has its unit.
    """

    name: str
    columns: tuple[Column[T], ...]
    rows: tuple[Row[T], ...]
    best: frozenset[tuple[str, str]] = frozenset()
    notes: tuple[tuple[str, frozenset[str]], ...] = ()
    head: str = "model"
    whole_labels: bool = False
    headed: bool = True

    def anchor(self, key: str) -> str:
        """Return the id of a row on a page."""
        place = next(index for index, row in enumerate(self.rows) if row.key == key)
        return f"{self.name}-row-{place + 1}"

    def bold(self, row: Row[T], column: Column[T]) -> bool:
        """Whether a figure is bold."""
        return (row.key, column.key) in self.best

    def legend(self, columns: Sequence[Column[T]] | None = None) -> list[str]:
        """Return what has to be known to read these columns, by default all that are shown."""
        keys = {column.key for column in (self.columns if columns is None else columns)}
        return [note for note, about in self.notes if not about or about & keys]

    def glossary(self, columns: Sequence[Column[T]] | None = None) -> list[tuple[str, str]]:
        """Return (title, explanation) of these columns, by default of all that are shown.

        A column whose title says everything has no explanation.
        """
        shown = self.columns if columns is None else columns
        return [(column.title, column.explanation) for column in shown if column.about]


def shown_columns(columns: Iterable[Column[T]], rows: Sequence[Row[T]]) -> tuple[Column[T], ...]:
    """Return the columns that a reader sees: those in which any row has a cell."""
    return tuple(
        column for column in columns if column.priority and any(column.cell(row.of) for row in rows)
    )


def explained(table: Table[T], columns: Sequence[Column[T]] | None = None) -> str:
    """Return what the columns mean, in one paragraph."""
    meanings = "; ".join(f"{title}: {about}" for title, about in table.glossary(columns))
    return f"{meanings}." if meanings else ""


# --- terminal ---


def terminal(table: Table[T], width: int = 100, title: str | None = None) -> RenderableType:
    """Return the table for a terminal of `width` columns.

    Columns that do not fit are left out and named below it.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    columns, gap = fit(table, width)
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=table.headed,
    )
    drawn.add_column(table.head, overflow="fold", no_wrap=table.whole_labels)
    for column in columns:
        if column.wraps:
            drawn.add_column(column.title, overflow="fold")
        else:
            drawn.add_column(column.title, justify="right", no_wrap=True)
    for row, following in zip(table.rows, (*table.rows[1:], None), strict=True):
        last = row.standing != "floor" and following is not None and following.standing == "floor"
        cells = [_rich_cell(table, row, column) for column in columns]
        drawn.add_row(_rich_name(row), *cells, end_section=last)
    caption = _caption(table, columns)
    # A title or caption of rich's own would be as narrow as the table.
    above = [Text(title, style="table.title", no_wrap=True)] if title else []
    below = [Text(caption, style="dim")] if caption else []
    return Group(*above, drawn, *below)


def _caption(table: Table[T], columns: Sequence[Column[T]]) -> str:
    left_out = [column.title for column in table.columns if column not in columns]
    missing = [f"Not shown at this width: {', '.join(left_out)}."] if left_out else []
    return " ".join(filter(None, [*table.legend(columns), *missing, explained(table, columns)]))


def _rich_name(row: Row[T]) -> Text:
    from rich.text import Text

    name = Text(row.label, style=STYLES.get(row.standing, ""))
    if row.standing in UNRANKED:
        name.append(f"\n{row.standing}", style="red")
    return name


def _rich_cell(table: Table[T], row: Row[T], column: Column[T]) -> Text:
    from rich.text import Text

    cell = column.cell(row.of)
    if cell is None:
        blank = column.wraps or row.standing == "heading"
        return Text("" if blank else "\N{MIDDLE DOT}", style="dim")
    text = Text(cell.text, style=_style(table, row, column, cell))
    if cell.sub:
        text.append(f"\n{cell.sub}", style="dim not bold")
    return text


def _style(table: Table[T], row: Row[T], column: Column[T], cell: Cell) -> str:
    if cell.tone:
        return TONES[cell.tone]
    if table.bold(row, column):
        return "bold"
    return "dim" if row.standing == "floor" else ""


def fit(table: Table[T], width: int) -> tuple[list[Column[T]], int]:
    """Return the columns that fit into `width` and the gap between them.

    The least important columns are dropped, those of one priority together; of the most
    important ones the last goes first.
    """
    names = max(len(table.head), *(len(row.label) for row in table.rows))
    if not table.whole_labels:
        names = min(names, LONGEST_NAME)
    columns = list(table.columns)
    while len(columns) > 1:
        needed = names + sum(_width(table, column) for column in columns)
        for gap in (2, 1):
            if needed + gap * len(columns) <= width:
                return columns, gap
        least = max(column.priority for column in columns)
        kept = [column for column in columns if column.priority < least]
        columns = kept or columns[:-1]
    return columns, 1


def _width(table: Table[T], column: Column[T]) -> int:
    cells = [cell for row in table.rows if (cell := column.cell(row.of))]
    if column.wraps:
        longest = max(len(cell.text) for cell in cells)
        return max(len(column.title), min(longest, NARROWEST_TEXT))
    return max(len(column.title), *(max(len(cell.text), len(cell.sub)) for cell in cells))


# --- Markdown ---


def markdown(table: Table[T]) -> list[str]:
    """Return the lines of the table in Markdown, second lines in brackets, without its notes."""
    heads = [table.head, *(column.title for column in table.columns)]
    lines = [f"| {' | '.join(heads)} |", f"|:---|{'---:|' * len(table.columns)}"]
    for row in table.rows:
        standing = f" ({row.standing})" if row.standing in UNRANKED else ""
        cells = [_markdown_cell(table, row, column) for column in table.columns]
        lines.append(f"| {plain(row.label)}{standing} | {' | '.join(cells)} |")
    return lines


def _markdown_cell(table: Table[T], row: Row[T], column: Column[T]) -> str:
    cell = column.cell(row.of)
    if cell is None:
        return ""
    text = plain(cell.text)
    if table.bold(row, column):
        text = f"**{text}**"
    return f"{text} ({plain(cell.sub)})" if cell.sub else text


# --- notebooks ---


def html(table: Table[T], head: str | None = None) -> str:
    """Return the table as HTML for a notebook; `head` replaces the title of the rows' labels."""
    rows = [
        [escape(row.label), *(_html_cell(table, row, column) for column in table.columns)]
        for row in table.rows
    ]
    heads = [head or table.head, *(column.title for column in table.columns)]
    return html_table(heads, rows, [*table.legend(), explained(table)])


def _html_cell(table: Table[T], row: Row[T], column: Column[T]) -> str:
    cell = column.cell(row.of)
    if cell is None:
        return ""
    text = f"<b>{escape(cell.text)}</b>" if table.bold(row, column) else escape(cell.text)
    return f"{text}<br><small>{escape(cell.sub)}</small>" if cell.sub else text
