"""The Python standard library's own source, read from the running interpreter, not downloaded."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import About, Document, HeldOut, Skipped, SplitName
from flyweight.data.reading import read_python
from flyweight.data.splitting import split_of
from flyweight.errors import RequestError

# fmt: off Tests and demonstrations; generated tables and topics, one of which can be most of a
# split; what is not the library.
_FOLDERS = frozenset(
    (
        "test",
        "tests",
        "idle_test",
        "idlelib",
        "turtledemo",
        "encodings",
        "pydoc_data",
        "lib2to3",
        "ensurepip",
        "site-packages",
        "dist-packages",
        "lib-dynload",
        "__pycache__",
        "__phello__",
    )
)
# Gone from 3.12, 3.13 or 3.14: without them the supported Pythons give nearly the same corpus.
_REMOVED = frozenset(
    (
        "asynchat",
        "asyncore",
        "distutils",
        "imp",
        "smtpd",
        "aifc",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "imghdr",
        "mailcap",
        "msilib",
        "nntplib",
        "pipes",
        "sndhdr",
        "sunau",
        "telnetlib",
        "uu",
        "xdrlib",
    )
)
# fmt: on


@dataclass(frozen=True)
class PythonStdlib:
    """Every .py file of the standard library but tests, tables and removed modules.

    Split by a hash of its path.
    """

    held_out: HeldOut
    root: Path | None = None

    @property
    def about(self) -> About:
        """A document a file, with a separator after each."""
        origin = f"the standard library of Python {sysconfig.get_python_version()}"
        return About("python-stdlib", origin, schema.BpeTokenizer(), separated=True, published=True)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The chosen files' paths under the library, sorted.

        Raises RequestError where the sources are not there.
        """
        root = self._root()
        paths: list[str] = []
        for folder, names, files in os.walk(root):
            # config-3.x-<platform> holds what the build wrote: the paths of the machine that built
            # this Python.
            names[:] = [
                name for name in names if name not in _FOLDERS and not name.startswith("config-")
            ]
            for file in files:
                relative = (Path(folder) / file).relative_to(root).as_posix()
                if file.endswith(".py") and not _left_out(relative):
                    paths.append(relative)
        if not paths:
            raise RequestError(
                f"python-stdlib: {root} holds no .py files (a zipped or stripped Python); use an "
                "ordinary installation of Python, or another corpus such as a text file"
            )
        return tuple(sorted(paths))

    def _root(self) -> Path:
        return self.root or Path(sysconfig.get_path("stdlib"))

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield the split's files."""
        for name in self.files:
            if split_of(name, self.held_out) == split:
                yield from read_python(self._root() / name, name)


def _left_out(relative: str) -> bool:
    module = relative.split("/")[0].removesuffix(".py")
    return module in _REMOVED or module.startswith("_sysconfigdata") or relative == "tkinter/tix.py"


def open_source(data_dir: Path | None, held_out: HeldOut) -> PythonStdlib:
    """Return the standard library as a corpus; `data_dir` does not matter to it."""
    return PythonStdlib(held_out)
