"""What the API refuses before it writes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

import flyweight as fw
from flyweight.errors import RequestError


@pytest.mark.parametrize("named", ["name", "path"])
def test_a_report_is_not_written_through_a_link_in_the_runs_root(
    tmp_path: Path, elsewhere: Path, named: str
):
    session = fw.Session(runs=tmp_path / "runs", quiet=True)
    session.store.prepare()
    (session.store.root / "mine").symlink_to(elsewhere)
    with pytest.raises(RequestError, match="mine is a symbolic link"):
        fw.report("mine" if named == "name" else session.store.root / "mine", session=session)
