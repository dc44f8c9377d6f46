"""`--fresh` removes a run, and nothing that a link in its place leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyweight.api.forgetting import forget
from flyweight.api.session import Session
from flyweight.errors import RequestError
from flyweight.store.artifact import Store


@pytest.mark.parametrize("target", ["", "state", "nowhere"])
def test_a_link_in_the_place_of_a_run_is_refused(tmp_path: Path, elsewhere: Path, target: str):
    store = Store(tmp_path / "runs")
    store.prepare()
    (store.root / "mine").symlink_to(elsewhere / target)
    with pytest.raises(RequestError, match="mine is a symbolic link"):
        forget(store, "mine", Session(runs=store.root, quiet=True))


def test_links_in_a_run_go_alone(tmp_path: Path, elsewhere: Path):
    store = Store(tmp_path / "runs")
    store.prepare()
    (store.root / "mine").mkdir()
    (store.root / "mine" / "model").symlink_to(elsewhere)
    forget(store, "mine", Session(runs=store.root, quiet=True))
    assert not (store.root / "mine").exists()
