"""Find local copies of well-known corpora: `DIR/<corpus>/<file>` under the files' usual names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flyweight.core.files import user_path, utf8_name
from flyweight.errors import RequestError

VARIABLE = "FLYWEIGHT_DATA"


def data_folder(option: Path | str | None) -> Path | None:
    """Return the folder of local copies: the option, else FLYWEIGHT_DATA, else None.

    Raises RequestError where it is not a folder.
    """
    name = str(option or os.environ.get(VARIABLE, ""))
    if not name:
        return None
    folder = user_path(name)
    if not folder.is_dir():
        where = "--data-dir" if option else VARIABLE
        raise RequestError(
            f"{where}: {folder} is not a folder; name one that has <corpus>/<file> in it, or leave "
            "it out"
        )
    return utf8_name(folder, "--data-dir" if option else VARIABLE)


def local_files(
    data_dir: Path | None, corpus: str, files: Sequence[Sequence[str]]
) -> tuple[Path, ...] | None:
    """Return the corpus' files, each under the first of its usual names that exists.

    None where `data_dir` has no folder for the corpus.

    Raises RequestError naming the first missing file: a folder with half a corpus is never quietly
    replaced by a download.
    """
    if data_dir is None or not (folder := data_dir / corpus).is_dir():
        return None
    paths: list[Path] = []
    for names in files:
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is None:
            raise RequestError(
                f"{corpus}: {folder / names[0]} is missing; {remedies(corpus, folder / names[0])}"
            )
        paths.append(path)
    return tuple(paths)


def remedies(corpus: str, path: Path | str) -> str:
    """Return what to do where a corpus' file is neither here nor reachable."""
    return (
        f"put the file there (as {path}), or take {corpus} from the hub: with network access,"
        f' `pip install "flyweight[hub]"` and no {corpus} folder in --data-dir or {VARIABLE}'
    )
