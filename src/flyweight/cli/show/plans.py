"""Plans in a terminal: the verdict, what `train` would choose, the needs row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml
from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.core.console import Terminal
from flyweight.planning.shown import Shown
from flyweight.tables import engine


def plan(planned: Shown, chosen: Sequence[str] = ()) -> None:
    """Print a plan; `chosen` are the choices of `train` for a text."""
    prose(*planned.verdict())
    if chosen:
        prose("", *chosen)
    table = planned.table()
    if table is not None:
        say("", engine.terminal(table, Terminal().width), "")
    prose(*planned.remarks())


def recipe(fields: Mapping[str, object]) -> None:
    """Print the fields of a recipe as a file holds them."""
    say(Text(yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True).rstrip()))
