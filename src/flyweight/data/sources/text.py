"""A user's own text: one file, a folder, a glob or a list of those."""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flyweight.config import schema
from flyweight.core.files import user_path
from flyweight.data.document import SPLITS, About, Document, HeldOut, Skipped, SplitName
from flyweight.data.file_kinds import (
    ROWS,
    SUFFIXES,
    FileKind,
    in_folder,
    kind_of,
    left_out,
    open_bytes,
)
from flyweight.data.html_text import html_text
from flyweight.data.reading import (
    cut_blocks,
    cut_file,
    cut_pieces,
    decoded,
    pieces,
    read_blocks,
    read_pieces,
    size,
)
from flyweight.data.sources.rows import RowFile
from flyweight.data.splitting import split_whole
from flyweight.errors import RequestError

PLAIN = FileKind("text")


@dataclass(frozen=True)
class TextFile:
    """One file: train, validation and test follow each other in it, cut at paragraph or line ends.

    `name` is the document's where the file is one of several.
    """

    path: Path
    held_out: HeldOut
    kind: FileKind = PLAIN
    name: str | None = None

    @property
    def about(self) -> About:
        """One document, so nothing separates."""
        name = self.path.name
        return About(
            name, f"the file {name}", schema.BpeTokenizer(), separated=False, contiguous=True
        )

    def documents(self, split: SplitName) -> Iterator[Document]:
        """Yield the split's part of the file."""
        yield from pieces(self.name or self.path.name, self._part(split))

    def whole(self) -> Iterator[Document]:
        """Yield all of the file."""
        yield from pieces(self.name or self.path.name, self._pieces())

    def check(self) -> None:
        """Read all of the file; raise RequestError where that is impossible."""
        for _ in self._pieces():
            pass

    @property
    def _fractions(self) -> tuple[float, float]:
        return 1 - self.held_out.validation - self.held_out.test, 1 - self.held_out.test

    def _pieces(self) -> Iterator[str]:
        if self.kind == PLAIN:
            yield from read_pieces(self.path)
            return
        with open_bytes(self.path, self.kind.compression) as file:
            blocks = decoded(self.path, read_blocks(self.path, file))
            yield from cut_blocks(html_text(blocks) if self.kind.format == "html" else blocks)

    def _part(self, split: SplitName) -> Iterator[str]:
        if self.kind == PLAIN:
            first, second = cut_file(self.path, self._fractions)
            start, stop = {
                "train": (0, first),
                "validation": (first, second),
                "test": (second, None),
            }[split]
            yield from read_pieces(self.path, start, stop)
            return
        number = SPLITS.index(split)
        for part, text in cut_pieces(self._pieces(), self._characters, self._fractions):
            if part > number:
                return
            if part == number:
                yield text

    @cached_property
    def _characters(self) -> int:
        return sum(map(len, self._pieces()))


@dataclass(frozen=True)
class TextFiles:
    """Many files: each is in one split, by a hash of its path.

    Files are each cut in three instead where whole files would give a held-out split less than half
    its share of the bytes. Rows are documents of their own, and files that cannot be read are left
    out.
    """

    name: str
    files: tuple[TextFile | RowFile, ...]
    skipped: tuple[Skipped, ...]
    held_out: HeldOut

    @property
    def about(self) -> About:
        """A document a file or row, with a separator after each."""
        return About(
            self.name,
            f"{len(self.files)} files of {self.name}",
            schema.BpeTokenizer(),
            separated=True,
        )

    @cached_property
    def _checked(self) -> tuple[list[TextFile | RowFile], list[Skipped]]:
        """The files that can be read to their end, and those that cannot, with the reason."""
        good: list[TextFile | RowFile] = []
        skipped = list(self.skipped)
        for file in self.files:
            try:
                file.check()
                good.append(file)
            except RequestError as error:
                skipped.append(Skipped(file.name or file.path.name, str(error)))
        if not good:
            raise _none_readable(self.name, skipped)
        return good, skipped

    @cached_property
    def _whole(self) -> dict[str, SplitName] | None:
        texts = [file for file in self._checked[0] if isinstance(file, TextFile)]
        return split_whole({file.name or "": size(file.path) for file in texts}, self.held_out)

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield the split's files, or its part of every file; train names the files left out."""
        files, skipped = self._checked
        if split == "train":
            yield from skipped
        for file in files:
            if isinstance(file, RowFile) or self._whole is None:
                yield from file.documents(split)
            elif self._whole[file.name or ""] == split:
                yield from file.whole()


def open_path(
    path: Path, held_out: HeldOut, column: str | None = None
) -> TextFile | RowFile | TextFiles:
    """Return a file or a folder as a corpus.

    Raises RequestError where it is missing, empty or without text.
    """
    if path.is_dir():
        folder = _search(path)
        if not folder.files:
            raise _without_text(path, folder)
        name = path.resolve().name or str(path)
        return _many(name, path, folder.files, folder.documents, held_out, column)
    if not path.exists():
        raise RequestError(f"{path} does not exist")
    if size(path) == 0:
        raise RequestError(f"{path} is empty; a corpus needs text")
    return _one(path, held_out, column)


def open_glob(
    pattern: str, held_out: HeldOut, column: str | None = None
) -> TextFile | RowFile | TextFiles:
    """Return the files that match a glob (`**` crosses folders) as a corpus.

    Raises RequestError where none does.
    """
    paths = _matching(pattern)
    return _many(pattern, _root(paths), paths, {}, held_out, column)


def open_list(
    names: Sequence[str], held_out: HeldOut, column: str | None = None
) -> TextFile | RowFile | TextFiles:
    """Return several files, folders and globs as one corpus.

    It has each file once, in the order of their paths. Raises RequestError naming the first that
    is missing or matches nothing.
    """
    paths: list[Path] = []
    skipped: dict[Path, str] = {}
    for name in names:
        path = user_path(name)
        if path.is_dir():
            folder = _search(path)
            paths += folder.files
            skipped |= folder.documents
        elif path.exists():
            paths.append(path)
        elif any(mark in name for mark in "*?["):
            paths += _matching(name)
        else:
            raise RequestError(f"{name!r} does not exist (looked from {Path.cwd()})")
    if not paths:
        raise RequestError(f"{', '.join(names)} has no text files; looked for {' '.join(SUFFIXES)}")
    files = sorted({path.absolute(): path for path in reversed(paths)})
    name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    skipped = {path.absolute(): reason for path, reason in skipped.items()}
    return _many(name, _root([*files, *skipped]), files, skipped, held_out, column)


def _matching(pattern: str) -> list[Path]:
    paths = map(Path, globbing.glob(os.path.expanduser(pattern), recursive=True))
    files = sorted(path for path in paths if path.is_file())
    if not files:
        raise RequestError(
            f"no file matches {pattern!r} (looked from {Path.cwd()}); put a glob in quotes, or the "
            "shell expands it"
        )
    return files


def _root(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


@dataclass(frozen=True)
class _Folder:
    """What a folder holds: sorted text files, documents left out, other files' endings."""

    files: list[Path]
    documents: dict[Path, str]
    others: set[str]


def _search(path: Path) -> _Folder:
    """Search a folder and the folders in it, but not what is hidden, nor `__pycache__`."""
    folder = _Folder([], {}, set())
    for inside, names, files in os.walk(path, onerror=_unreadable):
        names[:] = [name for name in names if not name.startswith(".") and name != "__pycache__"]
        for file in (Path(inside) / name for name in files if not name.startswith(".")):
            if in_folder(file.name):
                folder.files.append(file)
            elif reason := left_out(file):
                folder.documents[file] = reason
            else:
                folder.others.add(file.suffix.lower() or "no ending")
    folder.files.sort()
    return folder


def _without_text(path: Path, folder: _Folder) -> RequestError:
    if folder.documents:
        file, reason = min(folder.documents.items())
        return RequestError(f"{path} has no text files: {file.name} is {reason}")
    content = "it is empty"
    if folder.others:
        content = f"it holds only {', '.join(sorted(folder.others)[:8])}"
    return RequestError(
        f"{path} has no text files: {content}; looked for {' '.join(SUFFIXES)}; a glob takes any "
        "ending"
    )


def _none_readable(name: str, skipped: Sequence[Skipped]) -> RequestError:
    first = skipped[0]
    others = f" ({len(skipped) - 1} more cannot be read either)" if len(skipped) > 1 else ""
    return RequestError(
        f"{name} has no file that can be read: {first.name}: {first.reason}{others}"
    )


def _unreadable(error: OSError) -> None:
    raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error


def _one(path: Path, held_out: HeldOut, column: str | None) -> TextFile | RowFile:
    kind = kind_of(path)
    if kind.format in ROWS:
        return RowFile(path, held_out, kind, column)
    if column is not None:
        raise RequestError(f"data.column: {path} has no columns; leave it out")
    return TextFile(path, held_out, kind)


def _many(
    name: str,
    root: Path,
    paths: Sequence[Path],
    documents: dict[Path, str],
    held_out: HeldOut,
    column: str | None,
) -> TextFile | RowFile | TextFiles:
    full = [path for path in paths if size(path) > 0]
    if not full:
        raise RequestError(f"all {len(paths)} text files of {name} are empty; a corpus needs text")
    if len(full) == 1 and not documents:
        return _one(full[0], held_out, column)
    files: list[TextFile | RowFile] = []
    skipped: list[Skipped] = []
    for path in full:
        within = path.relative_to(root).as_posix()
        try:
            kind = kind_of(path)
        except RequestError as error:
            skipped.append(Skipped(within, str(error)))
            continue
        if kind.format in ROWS:
            files.append(RowFile(path, held_out, kind, column, within))
        else:
            files.append(TextFile(path, held_out, kind, within))
    skipped += [
        Skipped(path.relative_to(root).as_posix(), reason)
        for path, reason in sorted(documents.items())
    ]
    if not files:
        raise _none_readable(name, skipped)
    if column is not None and not any(isinstance(file, RowFile) for file in files):
        raise RequestError(f"data.column: no file of {name} has columns; leave it out")
    return TextFiles(name, tuple(files), tuple(skipped), held_out)
