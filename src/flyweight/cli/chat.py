"""The terminal's side of `flyweight chat`: lines in, answers out as they come, and a few commands."""

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

    Answers go to standard output (with `as_json` to standard error, where somebody types), remarks
    to standard error. Raises what a turn raises where the lines are piped; where they are typed it
    is told, and the conversation goes on.
    """
    typed = sys.stdin.isatty()
    remarks = Terminal(stderr=True)
    out: TextIO | None = (sys.stderr if typed else None) if as_json else sys.stdout
    rest = _TURNS if chat.template else _PLAIN
    if typed:
        limit = "no limit" if chat.context is None else f"{chat.context} tokens"
        _remark(remarks, f"{name}, context {limit}. {rest} /help tells more, Ctrl-D leaves.", "dim")
    for line in _lines(typed, as_json):
        if line.startswith("/") and not line.startswith("//"):
            if not _command(line.strip(), chat, remarks, rest):
                return
            continue
        if not line and chat.template:
            continue
        try:
            turn = _answered(chat, line.removeprefix("/") if line.startswith("//") else line, out)
        except FlyweightError as error:
            if not typed:
                raise
            _remark(remarks, str(error), "yellow")
            continue
        for remark in _remarks(turn, chat):
            _remark(remarks, f"({remark})", "dim")


def _answered(chat: Chat, line: str, out: TextIO | None) -> Turn:
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

    Raise RequestError for one that there is not.
    """
    if line == "/quit":
        return False
    if line == "/reset":
        chat.reset()
        _remark(remarks, "(all is forgotten)", "dim")
    elif line == "/help":
        _remark(remarks, HELP.format(rest=rest), "dim")
    elif sys.stdin.isatty():
        _remark(remarks, f"there is no {line}; /help tells what there is", "yellow")
    else:
        raise RequestError(
            f"there is no command {line[:80]}: known are /reset, /quit and /help; // begins a "
            f"line with a slash"
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
    remarks.print(text, style=style, soft_wrap=True)


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
