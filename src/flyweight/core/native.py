"""Machine code for this processor, made from C files of the package by the system's compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flyweight.core import process
from flyweight.errors import FlyweightError

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-march=native", "-fPIC", "-shared", "-ffp-contract=off", "-fno-trapping-math")
"""Sums and products are rounded as they are written: their bits do not depend on the compiler."""
_THREADS = "-fopenmp"
_TIMEOUT = 120.0


class NativeError(FlyweightError):
    """No machine code: the message says why."""


@dataclass(frozen=True)
class Native:
    """A loaded library, and the seconds that compiling it took now: 0 where it was kept."""

    library: ctypes.CDLL
    path: Path
    seconds: float


@cache
def load(*sources: Path) -> Native:
    """Return the library of C files, compiled for this processor, once for each processor.

    The headers that they include are among the sources. The library is kept in the user's cache
    folder (`XDG_CACHE_HOME`, else `~/.cache`), under a name that depends on the files, the compiler
    and what the processor can do. Raises NativeError where there is no compiler, where it fails,
    and where the folder is not this user's alone.
    """
    compiler = _compiler()
    try:
        # The predefined macros name the compiler's version and the processor's instructions.
        macros = _run([compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])
        contents = [source.read_bytes() for source in sources]
        words = " ".join((compiler, *_FLAGS, _THREADS, sys.platform)).encode()
        name = hashlib.sha256(b"\0".join((*contents, macros, words))).hexdigest()[:16]
        folder = _own_folder()
        path = folder / f"{sources[0].stem}-{name}.so"
        seconds = 0.0
        if not path.is_file():
            seconds = _compile(compiler, sources, path)
        return Native(ctypes.CDLL(str(path)), path, seconds)
    except OSError as error:
        raise NativeError(f"{sources[0].name} could not be compiled: {error}") from error


def _compiler() -> str:
    if sys.platform == "win32":
        raise NativeError("nothing is compiled on Windows")
    asked = os.environ.get("CC")
    for name in (asked,) if asked else _COMPILERS:
        if found := shutil.which(name):
            return found
    if asked:
        raise NativeError(f"the compiler {asked} that CC names is not there")
    raise NativeError(f"no C compiler was found ({', '.join(_COMPILERS)}); CC names another one")


def _own_folder() -> Path:
    """Return the folder of compiled files; what others can write to is not run."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(root) / "flyweight"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise NativeError(f"{folder} can be written by others, and machine code is kept there")
    return folder


def _compile(compiler: str, sources: tuple[Path, ...], path: Path) -> float:
    """Compile files to `path` in one step, so that processes may race; return the seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        made = Path(place) / path.name
        files = [str(source) for source in sources if source.suffix == ".c"]
        command = [compiler, *_FLAGS, *files, "-o", str(made)]
        try:
            _run([*command, _THREADS])
        except NativeError:
            _run(command)  # a compiler without OpenMP: one thread
        made.replace(path)
    return time.perf_counter() - began


def _run(command: list[str]) -> bytes:
    try:
        done = process.run_program(command, _TIMEOUT)
    except TimeoutError as error:
        raise NativeError(str(error)) from error
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    wrong = next((line for line in said if "error" in line), said[-1])
    raise NativeError(f"{command[0]} failed: {wrong.strip()}")
