"""How answers reach standard output."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from flyweight.core.console import Terminal


def say(*lines: object) -> None:
    """Print text lines as they are and tables on standard output.

    A file gets the title of a table on one line.
    """
    console = Terminal()
    for line in lines:
        if isinstance(line, Group):
            _say_parts(console, line)
        else:
            console.print(line, soft_wrap=isinstance(line, str | Text))


def _say_parts(console: Terminal, table: Group) -> None:
    for part in table.renderables:
        title = isinstance(part, Text) and bool(part.no_wrap)
        console.print(part, soft_wrap=title and not console.is_terminal)


def prose(*lines: str | Text) -> None:
    """Print sentences: a terminal breaks them between words, a file gets each on one line."""
    console = Terminal()
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)
