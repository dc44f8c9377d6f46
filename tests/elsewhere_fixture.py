"""A folder outside of the runs root, in which nothing may change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = (
    "file",
    "config.yaml",
    "events.jsonl",
    "manifest.json",
    "rates.json",
    "report.html",
    "summary.json",
    "table.md",
    ".gate.lock",
    ".half.partial",
    "state/current.json",
    "state/step-00000001/model.safetensors",
    "model/model.safetensors",
)


def content(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Return the modes, the time of change and the bytes of everything in a folder."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        told = path.lstat()
        found[path] = (told.st_mode, told.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Return a folder whose files have the names that a runs root has.

    After the test they are what they were.
    """
    folder = tmp_path / "elsewhere"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"precious {name}")
    before = content(folder)
    yield folder
    assert content(folder) == before
