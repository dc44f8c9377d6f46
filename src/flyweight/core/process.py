"""Start every child process of the package; none imports anything from the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flyweight.core import run_module

Process = subprocess.Popen[bytes]
"""A child that was started and not waited for."""


def run(
    module: str, request: str, timeout: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module with `request` on its standard input; return its output and exit status.

    The child has this process's flyweight, the installed packages and what PYTHONPATH names. It
    gets the variables of `environment` besides its own. After `timeout` seconds the child is ended
    and TimeoutError raised.
    """
    try:
        return subprocess.run(
            _command(module),
            input=request,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env={**_environment(), **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{module}: no end after {timeout:g} s") from error


def run_program(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program of the system, such as a compiler; return its output and exit status.

    After `timeout` seconds it is ended and TimeoutError raised. Raises OSError where there is none.
    """
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} took longer than {timeout:g} s") from error


def start(module: str) -> Process:
    """Start a module as `run` does and return its process.

    Its standard input and output are pipes. What it writes on standard error is dropped.
    """
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(
        _command(module), stdin=pipe, stdout=pipe, stderr=nowhere, env=_environment()
    )


def _command(module: str) -> list[str | Path]:
    return [
        sys.executable,
        "-I" if sys.flags.isolated else "-P",
        Path(run_module.__file__).absolute(),
        module,
    ]


def _environment() -> dict[str, str]:
    """Return this process's variables, made safe for a Python process and for its own children.

    An empty part of PYTHONPATH (`PYTHONPATH=:/opt/lib`) means the working folder, which nobody
    asked for.
    """
    variables = {**os.environ, "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] = os.pathsep.join(
            part for part in variables["PYTHONPATH"].split(os.pathsep) if part
        )
    return variables
