"""The terminal's side of `flyweight chat`: it reads lines, writes answers and obeys commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

from flyweight.core import terminal
from flyweight.core.console import Terminal
from flyweight.decode.chat import Chat, Turn
from flyweight.decode.stream import unknown_note
from flyweight.errors import FlyweightError, RequestError

HELP = """/reset   forget everything said
/quit    leave (or Ctrl-D)
/help    this
//...    say a line that begins with a slash
Ctrl-C stops an answer. {rest}"""

_PLAIN = (
    "This model has no chat template: lines and answers form one running text, and an empty "
    "line lets it go on."
)
_TURNS = "This model has a chat template: each line is a turn."


def talk(chat: Chat, name: str, as_json: bool) -> None:
    """Hold a conversation over standard input until it ends: a line a turn, typed or piped.

    Answers go to standard output, remarks to standard error. With `as_json` answers go to standard
    error where somebody types, and nowhere else. An error of a turn is raised where the lines are
    piped. Where they are typed it is shown, and the conversation goes on.
    """
    typed = sys.stdin.isatty()
    remarks = Terminal(stderr=True)
    out: TextIO | None = sys.stdout
    if as_json:
        out = sys.stderr if typed else None
    rest = _TURNS if chat.template else _PLAIN
    if typed:
        limit = "no limit" if chat.context is None else f"{chat.context} tokens"
        welcome = f"{name}, context {limit}. {rest} /help lists the commands, Ctrl-D leaves."
        _remark(remarks, welcome, "dim")
    for line in _lines(typed, as_json):
        if line.startswith("/") and not line.startswith("//"):
            if not _command(line.strip(), chat, remarks, rest):
                return
            continue
        if not line and chat.template:
            continue
        try:
            # A line that begins with two slashes is said with one.
            turn = _answer(chat, line.removeprefix("/"), out)
        except FlyweightError as error:
            if not typed:
                raise
            _remark(remarks, str(error), "yellow")
            continue
        for remark in _remarks(turn, chat):
            _remark(remarks, f"({remark})", "dim")


def _answer(chat: Chat, line: str, out: TextIO | None) -> Turn:
    speech = None if out is None else terminal.Speech(out)

    def speak(piece: str) -> None:
        if speech is not None:
            speech.say(piece)

    turn = chat.say(line, speak)
    if not turn.text.endswith("\n"):
        speak("\n")
    return turn


def _command(line: str, chat: Chat, remarks: Terminal, rest: str) -> bool:
    """Obey a command; return whether the conversation goes on.

    Raises RequestError for an unknown command, unless somebody types.
    """
    if line == "/quit":
        return False
    if line == "/reset":
        chat.reset()
        _remark(remarks, "(all is forgotten)", "dim")
    elif line == "/help":
        _remark(remarks, HELP.format(rest=rest), "dim")
    elif sys.stdin.isatty():
        _remark(remarks, f"{line} is not a command; /help lists the commands", "yellow")
    else:
        raise RequestError(
            f"{line[:80]} is not a command: known are /reset, /quit and /help; // begins a line "
            f"with a slash"
        )
    return True


def _remarks(turn: Turn, chat: Chat) -> Iterator[str]:
    """Yield what the user should know of an answer besides its text."""
    if note := unknown_note(turn.unknown_words):
        yield note
    if turn.dropped_turns:
        yield (
            f"the context of {chat.context} tokens is full: the oldest "
            f"{_count(turn.dropped_turns, 'turn')} dropped"
        )
    if turn.dropped_tokens:
        yield (
            f"the context of {chat.context} tokens is full: the oldest "
            f"{_count(turn.dropped_tokens, 'token')} dropped"
        )
    if turn.ended == "context":
        yield "the answer ends here: the context is full"
    elif turn.ended == "interrupted":
        yield "stopped"
    elif turn.ended == "length" and chat.template:
        yield f"the answer was cut at --max-new-tokens {turn.new_tokens}"
    elif turn.ended == "end" and not turn.text:
        yield "the model ends its text here; say something new, or /reset"


def _remark(remarks: Terminal, text: str, style: str) -> None:
    remarks.print(text, style=style, soft_wrap=not remarks.is_terminal)


def _count(number: int, what: str) -> str:
    return f"{what} was" if number == 1 else f"{number} {what}s were"


def _lines(typed: bool, as_json: bool) -> Iterator[str]:
    if not typed:
        for number, raw in enumerate(sys.stdin.buffer, 1):
            try:
                yield raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise RequestError(
                    f"standard input, line {number}: not UTF-8 text ({error})"
                ) from error
        return
    import readline  # noqa: F401 - gives `input` its line editing and history

    while True:
        try:
            if as_json:  # standard output is for the JSON alone
                sys.stderr.write("> ")
                sys.stderr.flush()
            yield input("" if as_json else "> ")
        except KeyboardInterrupt:
            sys.stderr.write("\n(Ctrl-D leaves)\n")
        except UnicodeDecodeError as error:
            sys.stderr.write(f"this line is not UTF-8 text ({error})\n")
        except EOFError:
            sys.stderr.write("\n")
            return
