import io

import pytest
from rich.console import Console

from flyweight.config.units import format_size
from flyweight.records.metric import Metric
from flyweight.tables import engine
from flyweight.tables.engine import Cell, Column, Row, Table, shown_columns

SIZE = Column(
    key="bytes",
    title="size",
    about="bytes of it",
    value=lambda of: Metric.exact(of["bytes"], "bytes") if "bytes" in of else None,
    format=format_size,
    better="lower",
    ranked=True,
    priority=1,
)
STATE = Column(
    key="state",
    title="state",
    about="how it is",
    value=lambda of: Cell(of["state"], "since today", tone="fail") if "state" in of else None,
    priority=2,
)
HIDDEN = Column(key="h", title="hidden", about="x", value=lambda of: Cell("secret"), priority=0)
NOWHERE = Column(key="n", title="nowhere", about="x", value=lambda of: None, priority=3)
ROWS = (
    Row("a", "a|<b>", {"bytes": 1_200, "state": "bad"}, "collapsed"),
    Row("b", "second", {"bytes": 900}),
    Row("floor:x", "bigram", {"bytes": 7_000_000}, "floor"),
)


@pytest.fixture
def table():
    columns = shown_columns((SIZE, STATE, HIDDEN, NOWHERE), ROWS)
    notes = (("Always.", frozenset()), ("Of states.", frozenset({"state"})))
    return Table("t", columns, ROWS, frozenset({("b", "bytes")}), notes)


def drawn(table, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(engine.terminal(table, width))
    return console.file.getvalue()


def test_shown_are_the_columns_with_anything_in_them(table):
    assert [column.key for column in table.columns] == ["bytes", "state"]
    assert table.glossary() == [("size", "bytes of it, lower is better"), ("state", "how it is")]


def test_a_metric_is_written_in_the_columns_format_and_kept():
    cell = SIZE.cell({"bytes": 1_200})
    assert (cell.text, cell.metric) == ("1.2 kB", Metric.exact(1_200, "bytes"))
    assert SIZE.cell({}) is None


def test_notes_belong_to_their_columns(table):
    assert table.legend() == ["Always.", "Of states."]
    assert table.legend([SIZE]) == ["Always."]


def test_a_row_has_an_anchor_of_its_own(table):
    anchors = [table.anchor(row.key) for row in table.rows]
    assert anchors == ["t-row-1", "t-row-2", "t-row-3"]


def test_markdown_has_bold_standings_and_no_way_out_of_its_cells(table):
    lines = engine.markdown(table)
    assert lines[:2] == ["| model | size | state |", "|:---|---:|---:|"]
    assert lines[2] == "| a&#124;&#60;b&#62; (collapsed) | 1.2 kB | bad (since today) |"
    assert lines[3] == "| second | **900 B** |  |"


def test_a_notebooks_table_is_escaped_and_explained(table):
    html = engine.html(table)
    assert "a|&lt;b&gt;" in html and "<b>900 B</b>" in html
    assert "size: bytes of it, lower is better" in html and "secret" not in html


@pytest.mark.parametrize(("width", "shown"), [(60, True), (18, False)])
def test_a_terminal_drops_what_does_not_fit_and_says_so(table, width, shown):
    text = drawn(table, width)
    flat = " ".join(text.split())
    assert ("state" in text.splitlines()[0]) == shown
    assert ("Not shown at this width: state." in flat) == (not shown)
    assert ("Of states." in flat) == shown and "900 B" in text and "collapsed" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_last_column_stays_however_narrow_it_is(table):
    assert engine.fit(table, 1) == ([SIZE], 1)
