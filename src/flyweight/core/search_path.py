"""Leave the working folder out of the folders that Python imports from.

This module imports nothing but `sys`: anything else would be looked for in the wrong folders.
"""

import sys


def leave_out_the_working_folder() -> None:
    """Drop the working folder that `python -m flyweight` puts first.

    A `random.py` that lies there is then not run. Call this while `-m` is looked up, when
    `sys.argv` begins with it. Does nothing where another program is started, or where Python was
    told to leave the folder out (`-P`).
    """
    if not sys.flags.safe_path and _started_module().partition(".")[0] == "flyweight":
        del sys.path[0]


def _started_module() -> str:
    """Return the module that the interpreter was started with."""
    word = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)]
    if word.startswith("-"):  # -mflyweight
        return word.partition("m")[2]
    return word
