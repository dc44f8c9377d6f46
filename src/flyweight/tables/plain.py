"""Tables of ready cells, such as the terminal's lists and a plan, drawn by the same engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from flyweight.tables.engine import Cell, Column, Row, Table, shown_columns

Cells = Sequence[Cell | str]


def plain_table(
    heads: Sequence[str],
    rows: Sequence[tuple[str, Cells]],
    *,
    about: Mapping[str, str] | None = None,
    wraps: Sequence[str] = (),
    priorities: Mapping[str, int] | None = None,
    headed: bool = True,
) -> Table[Cells]:
    """Return a table of cells that are ready; `heads` begins with the title of the rows' labels.

    A row is its label and a cell for each other head; a row without cells is a heading. `about`
    explains heads that do not say everything. The columns in `wraps` hold sentences. A narrow
    terminal drops the columns of the highest priority first.
    """
    columns = tuple(
        Column(
            key=head,
            title=head,
            about=(about or {}).get(head, ""),
            value=partial(_cell, index),
            priority=(priorities or {}).get(head, 1),
            wraps=head in wraps,
        )
        for index, head in enumerate(heads[1:])
    )
    lines = tuple(
        Row(f"{index}", label, cells, "ok" if cells else "heading")
        for index, (label, cells) in enumerate(rows)
    )
    return Table(
        name="plain",
        columns=shown_columns(columns, lines),
        rows=lines,
        head=heads[0],
        whole_labels=True,
        headed=headed,
    )


def _cell(index: int, cells: Cells) -> Cell | None:
    cell = cells[index] if cells else ""
    if isinstance(cell, str):
        return Cell(cell) if cell else None
    return cell
