"""Comparisons and the doctor's findings as people read them in a terminal."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from flyweight.cli.show.console import say
from flyweight.core.console import Terminal

COLOURS = {
    **{"ok": "green", "missing": "yellow", "slow": "yellow", "broken": "red"},
    **{"better": "green", "worse": "red", "undecided": "yellow"},
}


DISPENSABLE = (
    "bits/byte",
    "95 % interval",
    "bytes",
    "parameters",
    "nats/token",
    "FLOPs/token",
    "FLOPs to make",
)
"""Columns of a comparison that a narrow terminal may do without; the last go first."""
LONGEST_NAME = 28
"""Columns that a model's name may take before it is broken."""


def comparison(found: Any) -> None:
    """Print a comparison, best first, and what it means.

    Columns that do not fit are left out and named.
    """
    reference = found.comparison.reference
    rows = [_cells(found, row) for row in found]
    left: list[str] = []
    for head in (head for head in reversed(DISPENSABLE) if head in rows[0]):
        if not _fits(rows, left, Terminal().width):
            left.append(head)
    table = Table(box=None, header_style="dim", pad_edge=False)
    heads = [head for head in rows[0] if head not in left]
    for head in heads:
        justify = "left" if head in ("model", "verdict") else "right"
        table.add_column(head, justify=justify, no_wrap=head != "model", overflow="fold")
    for row in rows:
        table.add_row(*(row[head] for head in heads))
    missing = (
        [
            Text(
                f"Not shown at this width: {', '.join(head for head in rows[0] if head in left)}.",
                "dim",
            )
        ]
        if left
        else []
    )
    say(table, *missing, "")
    for row, sentence in zip(
        (row for row in found if row.name != reference), found.verdicts(), strict=True
    ):
        say(Text.assemble(("● ", COLOURS[row.verdict]), sentence))
    say(*(Text(f"note: {note}", "dim") for note in found.notes()))


def _cells(found: Any, row: Any) -> dict[str, Text]:
    """Return a model's cells by their column, the verdict in its colour."""
    cells = {head: Text(cell) for head, cell in found.cells(row).items()}
    cells["verdict"].stylize("dim" if row.paired is None else COLOURS[row.verdict])
    return cells


def _fits(rows: list[dict[str, Text]], left: list[str], width: int) -> bool:
    needed = 0
    for head in (head for head in rows[0] if head not in left):
        widest = max(len(head), *(row[head].cell_len for row in rows))
        needed += (min(widest, LONGEST_NAME) if head == "model" else widest) + 2
    return needed - 2 <= width


def doctor(found: Any) -> None:
    """Print what a machine can do, group by group, and what to do about what it cannot."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in ("what", "verdict", "measured", "do"):
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name in ("what", "verdict"),
            ratio=None if name != "measured" else 1,
        )
    for group, lines in groupby(found.lines, key=lambda line: line.group):
        table.add_row(Text(group, "bold"))
        for line in lines:
            told = Text(line.found)
            if line.remedy:
                told.append(f"\n→ {line.remedy}", "cyan")
            table.add_row(f"  {line.name}", Text(line.verdict, COLOURS[line.verdict]), told)
    broken = [line for line in found.lines if line.verdict == "broken"]
    end = (
        ("everything needed works", "green") if found.ok else ("something needed is broken", "red")
    )
    say(
        table,
        "",
        Text.assemble(
            end, (f"; {len(broken)} broken in all, measured in {found.seconds:.1f} s", "dim")
        ),
    )
