import pytest

from flyweight.errors import RequestError
from flyweight.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m\x85\x7f\x00\r", "\\x9b31m\\x85\\x7f\\x00\\x0d"),
        ("a\u202egpj.exe\u2066\u2069", "a\\u202egpj.exe\\u2066\\u2069"),
        ("one\u2028two\u2029", "one\\u2028two\\u2029"),
        ("zero\u200bwidth\ufeff\u2060\u00ad", "zero\\u200bwidth\\ufeff\\u2060\\xad"),
        ("ad\u200dmin \u200cx", "ad\\u200dmin \\u200cx"),
        ("\u3164\u115f\u034f", "\\u3164\\u115f\\u034f"),
        ("a\U000e0041\ud800", "a\\U000e0041\\ud800"),
        ("x\ufe0f\ufe0f\U000e0100", "x\ufe0f\\ufe0f\\U000e0100"),
    ],
)
def test_what_steers_hides_or_breaks_a_line_becomes_an_escape(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_words_and_emoji_of_every_script_stay():
    for text in (
        "\u0645\u06cc\u200c\u062e",
        "\u0915\u094d\u200d\u0937",
        "\U0001f469\u200d\U0001f4bb",
        "❤\ufe0f\u200d\U0001f525",
        "1\ufe0f\u20e3",
        "é中\t\n",
    ):
        assert visible(text) == text


def test_a_joiner_may_come_in_a_piece_of_its_own():
    assert visible("\u200d", "\U0001f469") == "\u200d"
    assert visible("\u200d") == "\\u200d"


def test_a_message_quotes_nothing_that_steers_a_terminal():
    assert str(RequestError("no model '\x1b[2J\u202e'")) == "no model '\\x1b[2J\\u202e'"
