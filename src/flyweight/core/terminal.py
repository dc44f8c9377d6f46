"""The standard streams of the command line: they show visible text, and their failures end no work.

`prepare` puts a `Screen` in the place of standard output and standard error. Every message then
goes through one place, those of libraries and Python's own too. `Terminal` (`core.console`) writes
styled text past it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TextIO, TypeVar

from flyweight.visible import visible

T = TypeVar("T")

NARROWEST, WIDEST = 40, 10_000
"""The fewest and the most columns of a table; a terminal that claims others is not believed."""

PLAIN = {
    **{
        "✓": "+",
        "·": "-",
        "…": "...",
        "→": "->",
        "●": "*",
        "±": "+-",
        "≤": "<=",
        "≥": ">=",
        "²": "2",
    },
    **{
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{NO-BREAK SPACE}": " ",
    },
}
"""How our own signs are written where a terminal's encoding lacks them.

Other characters become escapes.
"""

_CURSOR = re.compile(r"\r(?!\n)|(\x1b\[A)+$")
"""What a library's progress bar writes before its line, or instead of one."""


class Output(io.TextIOBase):
    """A standard stream whose failures end no work.

    With `vanishing` it drops text that nobody can read any more, instead of raising OSError.
    """

    def __init__(self, raw: TextIO, vanishing: bool) -> None:
        self.raw = raw
        self.vanishing = vanishing
        self.name = getattr(raw, "name", "")
        self.mode = "w"

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The encoding of the stream."""
        return self.raw.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How the stream writes what its encoding lacks."""
        return self.raw.errors

    def write(self, text: str) -> int:
        """Write text exactly as it is."""
        return self._tried(lambda: self.raw.write(text), len(text))

    def flush(self) -> None:
        """Write what is buffered."""
        self._tried(self.raw.flush, None)

    def isatty(self) -> bool:
        """Return whether a terminal reads this."""
        return self.raw.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self.raw.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Leave the stream open: it is the process's own."""

    def _tried(self, action: Callable[[], T], otherwise: T) -> T:
        try:
            return action()
        except OSError:
            if not self.vanishing:
                raise
            discard(self.raw)
            return otherwise


class Screen(Output):
    """A standard stream on which everything is visible.

    `exact` is the same stream for text that is shown as it is.
    """

    def __init__(self, raw: TextIO, vanishing: bool) -> None:
        super().__init__(raw, vanishing)
        self.exact = Output(raw, vanishing)

    def write(self, text: str) -> int:
        """Write text with control characters as escapes.

        A progress bar may return to the start of its line.
        """
        cursor = _CURSOR.match(text)
        start = cursor[0] if cursor else ""
        super().write(start + visible(text[len(start) :]))
        return len(text)


def prepare() -> None:
    """Make the standard streams and the terminal's variables fit to work with.

    Call this at the start of a process.
    """
    _open_closed()
    for name, vanishing in (("stdout", False), ("stderr", True)):
        stream = getattr(sys, name)
        if not isinstance(stream, Screen):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_ERRORS)
            setattr(sys, name, Screen(stream, vanishing))
    for name in ("COLUMNS", "LINES"):
        if name in os.environ and _columns(os.environ[name]) is None:
            del os.environ[name]
    os.environ.setdefault("RUST_BACKTRACE", "0")  # of native libraries


def _open_closed() -> None:
    """Open the null device where a standard stream is closed.

    Otherwise the next file that is opened would take the stream's place.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            # The stream stays open.
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def discard(stream: TextIO) -> None:
    """Drop whatever is still written to a stream: its reader is gone, or its disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def exact(stream: TextIO) -> TextIO:
    """Return a stream for text that is visible already."""
    return stream.exact if isinstance(stream, Screen) else stream  # pyright: ignore[reportReturnType]


def width() -> int:
    """Return the columns of the terminal, from the environment or the system; 80 if unknown."""
    variable = _columns(os.environ.get("COLUMNS", ""))
    if variable is not None:
        return variable
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        try:
            columns = os.get_terminal_size(stream.fileno()).columns if stream else 0
        except (OSError, ValueError):
            continue
        if columns > 0:
            return min(max(columns, NARROWEST), WIDEST)
    return 80


def _columns(columns: str) -> int | None:
    """Return the columns that a variable gives, within bounds, or None where it gives none."""
    if not re.fullmatch("[0-9]{1,6}", columns, re.ASCII) or int(columns) == 0:
        return None
    return min(max(int(columns), NARROWEST), WIDEST)


class Speech:
    """A model's text on a stream, as it comes.

    A terminal shows it as visible text; a file or a pipe gets it exactly.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = exact(stream)
        self._shown = stream.isatty()
        self._last = ""

    def say(self, piece: str) -> None:
        """Write a piece at once."""
        if self._shown:
            piece, self._last = visible(piece, self._last), piece[-1:] or self._last
        self._stream.write(piece)
        self._stream.flush()


def print_json(value: object, indent: int | None = None) -> None:
    r"""Print plain data as JSON that gives back the exact value.

    Characters that would steer a terminal, or that its encoding lacks, become `\u` escapes. Raises
    ValueError for a number that JSON does not have.
    """
    unicode = codecs.lookup(sys.stdout.encoding or "utf-8").name.startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode, allow_nan=False, indent=indent)
    exact(sys.stdout).write(_escaped_json(text) + "\n")


def _escaped_json(text: str) -> str:
    if visible(text) == text:
        return text
    return "".join(map(_escaped_letter, text))


def _escaped_letter(letter: str) -> str:
    if visible(letter) == letter:
        return letter
    if letter == "\x7f":  # JSON allows it, so `json.dumps` does not escape it
        return "\\u007f"
    return json.dumps(letter)[1:-1]


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    named = "".join(
        PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii")
        for letter in missing
    )
    return named, error.end


_ERRORS = "flyweight.nearest"
codecs.register_error(_ERRORS, _nearest)
