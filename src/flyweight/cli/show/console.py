"""How answers reach standard output."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from flyweight.core.console import Terminal


def say(*lines: object) -> None:
    """Print text lines as they are and tables on standard output.

    A table's title and caption are sentences.
    """
    console = Terminal()
    for line in lines:
        parts = line.renderables if isinstance(line, Group) else [line]
        for part in parts:
            if isinstance(line, Group) and isinstance(part, Text):
                prose(part)
            else:
                console.print(part, soft_wrap=isinstance(part, str | Text))


def prose(*lines: str | Text) -> None:
    """Print sentences: a terminal breaks them between words, a file gets each on one line."""
    console = Terminal()
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)
