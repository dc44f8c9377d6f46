"""Tables of ready cells: what is blank, what a narrow terminal drops, what needs no head."""

import io

from rich.console import Console

from flyweight.tables import engine
from flyweight.tables.engine import Cell
from flyweight.tables.plain import plain_table


def drawn(table, width=80):
    out = io.StringIO()
    Console(file=out, width=width).print(engine.terminal(table, width))
    return out.getvalue()


def test_heads_are_explained_where_they_do_not_say_everything():
    table = plain_table(("stage", "FLOPs"), [("a", ("1 G",))], about={"FLOPs": "operations"})
    assert drawn(table).rstrip().endswith("FLOPs: operations.")


def test_a_place_that_nothing_belongs_in_is_blank_and_an_unmeasured_one_is_a_dot():
    text = drawn(
        plain_table(("stage", "n", "time"), [("a", (Cell(""), "1 s")), ("b", ("", "2 s"))])
    )
    first, second = text.splitlines()[2:4]
    assert first.split() == ["a", "1", "s"] and second.split() == ["b", "\N{MIDDLE DOT}", "2", "s"]


def test_a_table_of_figures_with_units_has_no_head():
    text = drawn(plain_table(("for", "size"), [("best", ("1 MB",))], headed=False))
    assert text.split() == ["best", "1", "MB"]
