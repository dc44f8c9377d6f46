"""Plain tables of the terminal come from the engine that reports use."""

import io

import pytest
from rich.console import Console, RenderableType

from flyweight.cli.show.tables import drawn
from flyweight.tables.engine import Cell


def _lines(table: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_column_of_sentences_is_broken_and_names_stay_whole() -> None:
    name = "pretrain-0123456789abcdef-of-a-long-name"
    lines = _lines(drawn(("what", "size", "why"), [(name, ("1 MB", "word " * 20))], wraps=("why",)))
    assert any(name in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert sum(line.count("word") for line in lines) == 20


def test_columns_that_do_not_fit_are_named() -> None:
    rows = [("n" * 30, ("1" * 20, "2" * 20, "3" * 20))]
    lines = _lines(drawn(("name", "a", "b", "c"), rows, priorities={"b": 2}))
    assert "Not shown at this width: b." in lines
    assert not any("222" in line for line in lines)


def test_an_empty_number_is_a_dot_and_an_empty_sentence_is_blank() -> None:
    rows = [("x", ("", "")), ("y", (Cell("1"), "because"))]
    lines = _lines(drawn(("name", "n", "why"), rows, wraps=("why",)))
    assert lines[2].split() == ["x", "\N{MIDDLE DOT}"]


def test_a_column_without_any_cell_is_not_drawn() -> None:
    assert "took" not in _lines(drawn(("name", "took", "size"), [("x", ("", "1 kB"))]))[0]


def test_a_row_without_cells_is_a_heading() -> None:
    lines = _lines(
        drawn(("what", "n", "why"), [("group", ()), ("  x", ("1", "y"))], wraps=("why",))
    )
    assert lines[2:] == ["group", "  x    1  y"]
