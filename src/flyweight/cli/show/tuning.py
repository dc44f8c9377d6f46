"""A fine-tuning in the terminal: what was trained, before and after, and answers of both."""

from __future__ import annotations

from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import drawn
from flyweight.records.tuning import Tuning
from flyweight.reports.tuning import HEAD, change_cells, headline
from flyweight.tables.engine import Cell
from flyweight.tables.plain import Cells

SHOWN = 3
"""Prompts whose answers are shown."""

LONGEST = 100
"""Characters that are shown of a prompt's end and of an answer."""


def show(record: Tuning) -> None:
    """Print a fine-tuning before and after."""
    prose("", Text(headline(record), "bold"))
    for on, rows in _rows(record).items():
        say("", on, drawn(HEAD[1:], rows))
    for answer in record.answers[:SHOWN]:
        say("", f"  {_line(answer.prompt, end=True)}")
        right = [("right", answer.references[0])] if answer.references else []
        for name, text in (("before", answer.before), ("after", answer.after), *right):
            say(f"    {name + ':':8} {_line(text)}")
    prose(*(Text(f"note: {note}", "yellow") for note in record.notes))


def _rows(record: Tuning) -> dict[str, list[tuple[str, Cells]]]:
    """Return the changes as rows of cells, those of one text or task together."""
    rows: dict[str, list[tuple[str, Cells]]] = {}
    for change in record.changes:
        on, metric, *values = change_cells(change)
        rows.setdefault(on, []).append((metric, tuple(_below(value) for value in values)))
    return rows


def _below(value: str) -> Cell:
    """Return a value with its interval, which stands in brackets, in a line of its own."""
    text, _, interval = value.partition(" (")
    return Cell(text, sub=interval.replace(")", ""))


def _line(text: str, end: bool = False) -> str:
    """Return a text in one line, cut to LONGEST characters: to its end, or to its beginning."""
    line = text.replace("\n", "\\n")
    if len(line) <= LONGEST:
        return line
    return f"...{line[-LONGEST:]}" if end else f"{line[:LONGEST]}..."
