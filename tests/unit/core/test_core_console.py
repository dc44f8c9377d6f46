import io

import pytest
from rich.style import Style
from rich.table import Table
from rich.text import Text

from flyweight.api.progress import NOTES, Display
from flyweight.core.console import Terminal

EVIL = "\x1b[31m\u202e[red]x[/] :bomb: \x9b"
SHOWN = "\\x1b[31m\\u202e[red]x[/] :bomb: \\x9b"


def printed(*lines, **options):
    out = io.StringIO()
    console = Terminal(out, width=100, **options)
    for line in lines:
        console.print(line, soft_wrap=True)
    return out.getvalue()


def test_names_are_shown_as_they_are_in_lines_and_tables():
    table = Table("name", title=EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    text = printed(EVIL, Text(EVIL, "bold"), table)
    assert text.count(SHOWN) >= 4
    assert not {"\x1b", "\u202e", "\x9b"} & set(text)


def test_nothing_is_a_link_or_concealed():
    line = Text("click", Style(link="file:///etc/passwd", conceal=True, bold=True))
    text = printed(line, force_terminal=True, color_system="truecolor")
    assert text == "\x1b[1mclick\x1b[0m\n"


@pytest.mark.parametrize("kind", sorted(NOTES))
def test_progress_quotes_nothing_that_steers(kind):
    out = io.StringIO()
    fields = dict.fromkeys(
        (
            "name",
            "what",
            "limit",
            "note",
            "model",
            "why",
            "command",
            "id",
            "step",
            "path",
            "remark",
            "accumulate",
            "rows",
            "used",
            "tracker",
            "where",
            "row",
        ),
        EVIL,
    )
    Display(Terminal(out, width=100))(kind, fields)
    text = out.getvalue()
    assert SHOWN in text
    assert text.strip().startswith(NOTES[kind][0])
    assert not {"\x1b", "\u202e", "\x9b"} & set(text)


@pytest.mark.parametrize("columns", ["0", "9" * 5000, "²", "1"])
def test_a_table_is_there_whatever_the_environment_says_of_its_width(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    out = io.StringIO()
    table = Table("name")
    table.add_row("a model")
    Terminal(out).print(table)
    assert "a model" in out.getvalue()
