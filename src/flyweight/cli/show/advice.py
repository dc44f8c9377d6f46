"""The verdict in a terminal: first in every answer about a run or a study."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.reports.findings.advice import Advice, Choice


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


def _figures(choices: Sequence[Choice]) -> Table:
    """Return a line for each choice, each figure over its interval."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in ("roles", "label"):
        table.add_column(overflow="fold")
    for _ in choices[0].figures:
        table.add_column(justify="right", no_wrap=True)
    for choice in choices:
        figures = [Text(figure.text) for figure in choice.figures]
        for text, figure in zip(figures, choice.figures, strict=True):
            if figure.interval:
                text.append(f"\n{figure.interval}", "dim")
        table.add_row(Text(", ".join(choice.roles), "dim"), choice.label, *figures)
    return table


def _plain(text: str) -> str:
    return text.replace("`", "")
