import io
import json
import os
import subprocess
import sys

import pytest

from flyweight.core import terminal
from flyweight.core.terminal import Output, Screen, Speech

EVIL = "\x1b[31m\u202e\x9b"
SHOWN = "\\x1b[31m\\u202e\\x9b"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_screen_shows_everything_and_a_progress_bar_may_go_back():
    out = io.StringIO()
    screen = Screen(out, vanishing=False)
    print(f"name {EVIL}", file=screen)
    screen.write("\r 3 % \x1b[2J")
    screen.write("\x1b[A")
    screen.exact.write("\x1b[0m")
    assert out.getvalue() == f"name {SHOWN}\n\r 3 % \\x1b[2J\x1b[A\x1b[0m"


def test_what_a_model_says_is_visible_on_a_terminal_and_exact_in_a_pipe():
    for out, expected in ((Tty(), SHOWN), (io.StringIO(), EVIL)):
        speech = Speech(Screen(out, vanishing=False))
        for letter in EVIL:
            speech.say(letter)
        assert out.getvalue() == expected


def test_an_emoji_in_pieces_stays_one():
    out = Tty()
    speech = Speech(out)
    for piece in ("\U0001f469", "\u200d", "\U0001f4bb"):
        speech.say(piece)
    assert out.getvalue() == "\U0001f469\u200d\U0001f4bb"


def test_only_messages_may_vanish(tmp_path):
    with open(tmp_path / "log", "w") as raw:
        gone = Gone()
        gone.fileno = raw.fileno  # type: ignore[method-assign]
        assert Output(gone, vanishing=True).write("lost") == 4
        with pytest.raises(BrokenPipeError):
            Output(gone, vanishing=False).write("lost")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_json_is_exact_whatever_the_encoding_and_steers_no_terminal(monkeypatch, encoding):
    value = {"name": f"{EVIL}\x7f\ud800 é→\U0001f469 \u200d", "n": [1.5, None]}
    raw = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", Screen(raw, vanishing=False))
    terminal.print_json(value)
    raw.flush()
    text = raw.buffer.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert not {"\x1b", "\u202e", "\x9b", "\x7f", "\u200d"} & set(text)


def test_an_encoding_replaces_what_it_lacks():
    assert "✓ é→中".encode("ascii", "flyweight.nearest") == b"+ \\xe9->\\u4e2d"
    assert "✓ é".encode("latin-1", "flyweight.nearest") == b"+ \xe9"


@pytest.mark.parametrize(
    ("columns", "width"),
    [
        ("100", 100),
        ("0", None),
        ("", None),
        ("-5", None),
        ("9" * 5000, None),
        ("²", None),
        ("3", 40),
        ("99999", 10_000),
    ],
)
def test_a_width_is_believed_where_a_table_can_be_set_in_it(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal._columns(columns) == width
    assert terminal.NARROWEST <= terminal.width() <= terminal.WIDEST


PROGRAM = """
import os, sys
from flyweight.core import terminal
terminal.prepare()
held = [os.open(os.devnull, os.O_RDONLY)]
assert min(held) > 2, held
assert sys.stdin.read() == "" and "COLUMNS" not in os.environ
print("é→", flush=True)
sys.stderr.write("✓")
sys.stderr.flush()
os.write(int(sys.argv[1]), b"done")
"""


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/null 2>/dev/full", "2>&1 | true"]
)
def test_closed_and_full_streams_end_nothing(tmp_path, closed):
    environment = {**os.environ, "COLUMNS": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    end = tmp_path / "end"
    command = f'"{sys.executable}" -c "$0" 9 9>"{end}" {closed}'
    done = subprocess.run(
        ["bash", "-c", command, PROGRAM],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if (
        "true" not in closed
    ):  # the reader may be gone before the answer, which then ends the program
        assert end.read_text() == "done", done.stderr
    assert "Traceback" not in done.stderr or "true" in closed
