"""A user's own text: one file, a folder or a glob."""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import About, Document, HeldOut, SplitName
from flyweight.data.reading import cut_file, pieces, read_pieces, size
from flyweight.data.splitting import split_whole
from flyweight.errors import RequestError

# fmt: off
SUFFIXES = (
    ".txt", ".text", ".md", ".markdown", ".rst", ".org", ".tex", ".html", ".css", ".py", ".pyi", ".js", ".ts", ".c", ".h",
    ".cc", ".cpp", ".hpp", ".rs", ".go", ".java", ".kt", ".rb", ".lua", ".sh", ".sql",
)
# fmt: on
"""The endings of the files that a folder is searched for; a glob takes whatever it matches."""


@dataclass(frozen=True)
class TextFile:
    """One file: train, validation and test follow each other in it, cut at paragraph or line ends."""

    path: Path
    held_out: HeldOut

    @property
    def about(self) -> About:
        """One document, so nothing separates."""
        name = self.path.name
        return About(name, f"the file {name}", schema.BpeTokenizer(), separated=False, contiguous=True)

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split's part of the file."""
        yield from _part(self.path, self.path.name, split, self.held_out)


@dataclass(frozen=True)
class TextFiles:
    """Many files: each is in one split, by a hash of its path; few or uneven files are each cut in three instead.

    Files are cut where whole files would give a held-out split less than half its share of the bytes.
    """

    name: str
    files: tuple[tuple[str, Path], ...]
    held_out: HeldOut

    @property
    def about(self) -> About:
        """A document a file, with a separator after each."""
        return About(self.name, f"{len(self.files)} files of {self.name}", schema.BpeTokenizer(), separated=True)

    @cached_property
    def _whole(self) -> dict[str, SplitName] | None:
        return split_whole({name: size(path) for name, path in self.files}, self.held_out)

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split's files, or its part of every file."""
        for name, path in self.files:
            if self._whole is None:
                yield from _part(path, name, split, self.held_out)
            elif self._whole[name] == split:
                yield from pieces(name, read_pieces(path))


def _part(path: Path, name: str, split: SplitName, held_out: HeldOut) -> Iterator[Document]:
    first, second = cut_file(path, (1 - held_out.validation - held_out.test, 1 - held_out.test))
    start, stop = {"train": (0, first), "validation": (first, second), "test": (second, None)}[split]
    yield from pieces(name, read_pieces(path, start, stop))


def open_path(path: Path, held_out: HeldOut) -> TextFile | TextFiles:
    """Return a file or a folder as a corpus; raise RequestError where it is missing, empty or without text."""
    if path.is_dir():
        return _many(path.resolve().name or str(path), path, _folder(path), held_out)
    if not path.exists():
        raise RequestError(f"{path} does not exist")
    if size(path) == 0:
        raise RequestError(f"{path} is empty; a corpus needs text")
    return TextFile(path, held_out)


def open_glob(pattern: str, held_out: HeldOut) -> TextFile | TextFiles:
    """Return the files that match a glob (`**` crosses folders) as a corpus; raise RequestError where none does."""
    paths = sorted(path for path in map(Path, globbing.glob(os.path.expanduser(pattern), recursive=True)) if path.is_file())
    if not paths:
        raise RequestError(f"no file matches {pattern!r} (looked from {Path.cwd()}); quote a glob, so that the shell leaves it")
    return _many(pattern, Path(os.path.commonpath([path.parent for path in paths])), paths, held_out)


def open_several(paths: Sequence[Path], held_out: HeldOut) -> TextFile | TextFiles:
    """Return files and folders that are one corpus together; raise RequestError naming the first that is missing."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise RequestError(f"{path} does not exist (looked from {Path.cwd()}); a list names files and folders")
        files += _folder(path) if path.is_dir() else [path]
    files = sorted({file.resolve() for file in files})
    root = Path(os.path.commonpath([file.parent for file in files]))
    return _many(root.name or str(root), root, files, held_out)


def _folder(path: Path) -> list[Path]:
    found: list[Path] = []
    others: set[str] = set()
    for folder, names, files in os.walk(path, onerror=_unreadable):
        names[:] = [name for name in names if not name.startswith(".") and name != "__pycache__"]
        for file in files:
            suffix = Path(file).suffix.lower()
            if suffix in SUFFIXES and not file.startswith("."):
                found.append(Path(folder) / file)
            else:
                others.add(suffix or "no ending")
    if not found:
        held = f"it holds only {', '.join(sorted(others)[:8])}" if others else "it is empty"
        raise RequestError(f"{path} has no text files: {held}; looked for {' '.join(SUFFIXES)}; a glob takes any ending")
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error


def _many(name: str, root: Path, paths: list[Path], held_out: HeldOut) -> TextFile | TextFiles:
    full = [path for path in paths if size(path) > 0]
    if not full:
        raise RequestError(f"all {len(paths)} text files of {name} are empty; a corpus needs text")
    if len(full) == 1:
        return TextFile(full[0], held_out)
    return TextFiles(name, tuple((path.relative_to(root).as_posix(), path) for path in full), held_out)
