"""The documentation names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "README.md",
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.name != "log.md" and page.parent.name != "adr"
    ),
]
"""Pages about the code as it is; a log and decisions speak of files that may be gone."""

BELOW = ["", "src", "src/flyweight", "tests", "benchmarks", "docs"]
"""Where a page may mean a path from."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_docs_files_exist(page: Path) -> None:
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`", page.read_text())
    missing = [path for path in named if not any((ROOT / top / path).exists() for top in BELOW)]
    assert not missing
