"""The command line: it turns words into `flyweight.api` calls, and answers into text or JSON.

Heavy imports wait until a verb needs them.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from flyweight import __version__
from flyweight.cli.completion import whole_words
from flyweight.cli.verbs import exchange, measure, recipes, stages, store, text
from flyweight.core import terminal
from flyweight.core.files import reason
from flyweight.errors import FlyweightError

app = typer.Typer(
    help="Small language models under a budget: train, distil, quantize and measure them the "
    "same honest way.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verbs in (recipes, stages, measure, text, exchange, store):
    verbs.add(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"flyweight {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def _fail(error: FlyweightError | str, status: int) -> NoReturn:
    # A word of the request may be endless.
    text = re.sub(r"\S{1000,}", lambda word: f"{word[0][:200]}...", str(error))
    print(f"flyweight: {text}", file=sys.stderr)
    sys.exit(status)


def _discard_unwritten() -> None:
    """Drop what standard output does not take; the end of the process does not try it again."""
    try:
        sys.stdout.flush()
    except OSError:
        terminal.discard(sys.stdout)


NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Words of torch's message where an allocation fails; on a CPU it is a plain RuntimeError."""

INTERRUPTED = 130
"""The exit status of typer where Ctrl-C was pressed."""
INTERRUPTION = "interrupted; finished work is kept, and the same command goes on from there"


def _interrupted() -> NoReturn:
    """Print that the command was interrupted and exit with status 1.

    A second Ctrl-C meanwhile ends the process at once, without Python's traceback.
    """
    with suppress(ValueError):  # in another thread than the main one, which is not interrupted
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _fail(INTERRUPTION, 1)


def main() -> None:
    """Run the command line: exit status 0 done, 1 failed, 2 the request was wrong."""
    terminal.prepare()
    # A Python process that a library starts imports nothing from the working folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        try:
            with whole_words():
                app()
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _interrupted()
        raise
    except FlyweightError as error:
        _fail(error, error.status)
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:
        terminal.discard(sys.stdout)
        sys.exit(1)
    except OSError as error:
        _discard_unwritten()
        where = f" {error.filename}" if error.filename else ""
        _fail(f"the system refused{where}: {reason(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(
            words in str(error).lower() for words in NO_MEMORY
        ):
            raise
        _fail(
            "out of memory; a smaller train.batch, data.context or model needs less (`flyweight "
            "plan` says how much)",
            1,
        )
