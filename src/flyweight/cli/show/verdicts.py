"""Comparisons and the doctor's findings as people read them in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.core.console import Terminal
from flyweight.reports.tables import engine
from flyweight.reports.tables.engine import Cell, Column, Row, Table, Tone

COLOURS = {
    **{"ok": "green", "missing": "yellow", "slow": "yellow", "broken": "red"},
    **{"better": "green", "worse": "red", "undecided": "yellow"},
}


@dataclass(frozen=True)
class Wording:
    """What a column of a comparison means, and how soon a narrow terminal drops it."""

    about: str
    priority: int


WORDINGS = {
    "bits/byte": Wording("bits to code a byte of the text, lower is better", 2),
    "nats/token": Wording("nats per token, lower is better", 6),
    "difference": Wording("bits per byte minus those of the reference", 1),
    "95 % interval": Wording("of the difference, resampled in pairs", 3),
    "verdict": Wording("against the reference, corrected for all comparisons", 1),
    "parameters": Wording("parameters stored", 5),
    "bytes": Wording("size of the weights' files", 4),
    "FLOPs/token": Wording("of a forward pass at full context", 7),
    "FLOPs to make": Wording("of its whole training, teachers included", 8),
}
"""The columns of a comparison; those of the highest priority number are dropped first."""
TONES: dict[str, Tone] = {"better": "pass", "worse": "fail", "undecided": "open"}


def comparison(found: Any) -> None:
    """Print a comparison, best first, and what it means.

    Columns that do not fit are left out and named.
    """
    say(engine.terminal(_table(found), Terminal().width), "")
    rows = (row for row in found if row.name != found.comparison.reference)
    for row, sentence in zip(rows, found.verdicts(), strict=True):
        prose(Text.assemble(("● ", COLOURS[row.verdict]), sentence))
    prose(*(Text(f"note: {note}", "dim") for note in found.notes()))


def _table(found: Any) -> Table[dict[str, str]]:
    """Return a comparison as a table of the engine that reports use."""
    rows = tuple(Row(row.name, row.name, found.cells(row)) for row in found)
    columns = tuple(
        Column(
            key=head,
            title=head,
            about=WORDINGS[head].about,
            value=partial(_cell, head),
            priority=WORDINGS[head].priority,
        )
        for head in rows[0].of
        if head != "model"
    )
    return Table("comparison", columns, rows)


def _cell(head: str, cells: dict[str, str]) -> Cell | None:
    text = cells[head]
    tone: Tone = TONES.get(text, "") if head == "verdict" else ""
    return Cell(text, tone=tone) if text else None


def doctor(found: Any) -> None:
    """Print what a machine can do, group by group, and what to do about what it cannot."""
    table = RichTable(box=None, show_header=False, pad_edge=False)
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
