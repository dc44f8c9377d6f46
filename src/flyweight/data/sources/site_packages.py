"""The Python source of every package in the running environment: some hundred megabytes."""

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


@dataclass(frozen=True)
class SitePackages:
    """All .py files of site-packages.

    The files of one package folder stay together, split by a hash of its path.
    """

    held_out: HeldOut
    roots: tuple[Path, ...] = ()

    @property
    def about(self) -> About:
        """A document a file, with a separator after each."""
        origin = "the packages installed in the running environment"
        return About(
            "installed-packages", origin, schema.BpeTokenizer(), separated=True, published=True
        )

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every file by its path under site-packages, sorted.

        Raises RequestError where there is none.
        """
        roots = self.roots or tuple(
            dict.fromkeys(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
        )
        paths: dict[str, Path] = {}
        for root in roots:
            for folder, names, files in os.walk(root):
                names[:] = [name for name in names if name != "__pycache__"]
                for file in files:
                    path = Path(folder) / file
                    if file.endswith(".py") and path.is_file():
                        paths.setdefault(path.relative_to(root).as_posix(), path)
        if not paths:
            raise RequestError(
                f"installed-packages: no .py files under {', '.join(map(str, roots))}; use another "
                "corpus"
            )
        return dict(sorted(paths.items()))

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield the split's files."""
        for name, path in self.files.items():
            folder, slash, _ = name.rpartition("/")
            if split_of(folder if slash else name, self.held_out) == split:
                yield from read_python(path, name)


def open_source(data_dir: Path | None, held_out: HeldOut) -> SitePackages:
    """Return the installed packages as a corpus; `data_dir` does not matter to it."""
    return SitePackages(held_out)
