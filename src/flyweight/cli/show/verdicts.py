"""Comparisons and the doctor's findings as people read them in a terminal."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text

from flyweight.api.comparison import Compared
from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import drawn
from flyweight.config.units import format_time
from flyweight.core.console import Terminal
from flyweight.diagnosis.examine import Health
from flyweight.diagnosis.finding import Line
from flyweight.tables import engine
from flyweight.tables.engine import Cell, Tone
from flyweight.tables.plain import Cells

COLOURS = {"better": "green", "worse": "red", "undecided": "yellow"}
CONDITIONS: dict[str, Tone] = {"ok": "pass", "missing": "open", "slow": "open", "broken": "fail"}
"""The tones of the doctor's verdicts."""


def comparison(found: Compared) -> None:
    """Print a comparison: the verdict, each model's sentence, the table, what has to be known."""
    prose(Text(found.headline(), "bold"), "")
    rows = (row for row in found if row.name != found.comparison.reference)
    for row, sentence in zip(rows, found.verdicts(), strict=True):
        prose(Text.assemble(("● ", COLOURS[str(row.verdict)]), sentence))
    say("", engine.terminal(found.table(), Terminal().width), "")
    prose(*(Text(f"note: {note}", "dim") for note in found.notes()))


def doctor(found: Health) -> None:
    """Print what a machine can do, group by group, and what to do about what it cannot."""
    rows: list[tuple[str, Cells]] = []
    for group, lines in groupby(found.lines, key=lambda line: line.group):
        rows.append((group, ()))
        rows += [(f"  {line.name}", (_verdict(line), _measured(line))) for line in lines]
    broken = sum(line.verdict == "broken" for line in found.lines)
    verdict = ("Everything needed works", "bold green")
    if not found.ok:
        verdict = ("Something needed is broken", "bold red")
    rest = f"; {broken} of {len(found.lines)} checks: broken" if broken else ""
    prose(Text.assemble(verdict, (f"{rest}. Measured in {format_time(found.seconds)}.", "dim")), "")
    say(drawn(("what", "verdict", "measured"), rows, wraps=("measured",)))


def _verdict(line: Line) -> Cell:
    return Cell(line.verdict, tone=CONDITIONS[line.verdict])


def _measured(line: Line) -> str:
    return f"{line.found}\n→ {line.remedy}" if line.remedy else line.found
