"""The verdict in a terminal: first in every answer about a run or a study."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import drawn
from flyweight.reports.findings.advice import Advice, Choice
from flyweight.tables.engine import Cell
from flyweight.tables.plain import Cells


def show(advices: Sequence[Advice | None]) -> None:
    """Print verdicts: for each what to take, the choices, how to use them, what to know."""
    for advice in advices:
        if advice is not None:
            _one(advice)


def _one(advice: Advice) -> None:
    warning = advice.kind == "warning"
    prose("", Text(_plain(advice.title), "bold yellow" if warning else "bold green"))
    if advice.choices:
        say(_figures(advice.choices))
        say(*(Text(f"  {each.command}", "cyan") for each in advice.choices if each.command))
    prose(*(Text(_plain(note), "yellow" if warning else "") for note in advice.notes))


def _figures(choices: Sequence[Choice]) -> RenderableType:
    """Return a line for each choice; the last figures go first where a terminal is narrow."""
    names = [figure.name for figure in choices[0].figures]
    return drawn(
        ("for", "model", *names),
        [_row(choice) for choice in choices],
        wraps=("model",),
        priorities={name: 2 + place for place, name in enumerate(names)},
        headed=False,
    )


def _row(choice: Choice) -> tuple[str, Cells]:
    """Return what a model is best for, its name, and its figures over their intervals."""
    figures = [Cell(each.text, each.interval) for each in choice.figures]
    return ", ".join(choice.roles), (choice.label, *figures)


def _plain(text: str) -> str:
    return text.replace("`", "")
