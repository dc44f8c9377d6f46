"""Hold a folder of the runs root open, so that what is written into it lands in that very folder.

A path is looked up anew by each call: whoever swaps the folder for a link in between decides where
a file goes. Linux has a path for each open folder, `/proc/PID/fd/N`, which no swap can change.
Libraries in native code and child processes can use it like any other path. Elsewhere the folder's
own path is used, and is looked at before each use.
"""

from __future__ import annotations

import os
import re
import weakref
from pathlib import Path
from types import TracebackType

from flyweight.core.files import own_folder, refuse_other, sync_folder
from flyweight.errors import FlyweightError


class PinnedFolder:
    """A folder that exists and is not a link, held open until the end of a `with` block.

    Errors that leave the block name the folder as its user knows it. Raises RequestError where
    there is a link or a file instead, and at the end of the block FlyweightError where something
    else has taken its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """The folder's own path, for messages."""
        self.made = own_folder(folder)
        """Its device and inode numbers."""
        self._path = folder
        self._close = weakref.finalize(self, bool)
        if os.path.isdir("/proc/self/fd"):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            self._close = weakref.finalize(self, os.close, descriptor)
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self.made:
                refuse_other(folder, (status.st_dev, -1))
            self._path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")

    @property
    def path(self) -> Path:
        """The path to read and write through.

        Asking raises FlyweightError where a link or another folder has taken the folder's name.
        """
        refuse_other(self.folder, self.made)
        return self._path

    def rename(self, target: Path) -> None:
        """Give the folder another name, durably.

        Raises FlyweightError where it was not this folder that got the name.
        """
        sync_folder(self.path)
        os.rename(self.folder, target)
        refuse_other(target, self.made)
        sync_folder(target.parent)
        self.folder = target

    def named(self, path: Path) -> Path:
        """Return a path below `path` as one below the folder's own name."""
        return self.folder / path.relative_to(self._path)

    def __enter__(self) -> PinnedFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if error is None and os.path.lexists(self.folder):
            refuse_other(self.folder, self.made)
        if isinstance(error, OSError):
            error.filename = self._in_words(error.filename)
            error.filename2 = self._in_words(error.filename2)
        elif isinstance(error, FlyweightError):
            error.args = tuple(map(self._in_words, error.args))

    def _in_words(self, part: object) -> object:
        if self._path == self.folder or not isinstance(part, str):
            return part
        return re.sub(f"{self._path}(?![0-9])", lambda _: str(self.folder), part)
