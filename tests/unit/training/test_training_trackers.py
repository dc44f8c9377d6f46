import sys
import types

import pytest

from flyweight.errors import RequestError
from flyweight.training import trackers


def test_tensorboard_files_are_written(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    seen = []
    watch = trackers.tracked(["tensorboard"], "toy", "abc", lambda kind, fields: seen.append(kind))
    watch("step", {"step": 3, "nll": 2.5, "lr": 0.1})
    watch("stage", {"name": "x"})
    assert seen == ["step", "stage"]
    assert list((tmp_path / "tensorboard" / "toy-abc").glob("events*"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_get_the_same_numbers(monkeypatch, name):
    logged = []
    run = types.SimpleNamespace(log=lambda values, step=None: logged.append((values, step)))
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=lambda **options: run))
    watch = trackers.tracked([name], "toy", "abc", lambda kind, fields: None)
    watch("validation", {"step": 7, "nll": 1.5})
    values, step = logged[0]
    assert values["validation/nll"] == 1.5
    assert 7 in (step, values.get("step"))


def test_a_missing_tracker_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RequestError, match=r"flyweight\[wandb\]"):
        trackers.tracked(["wandb"], "toy", "abc", lambda kind, fields: None)


def test_no_tracker_is_the_watcher_itself():
    def watch(kind, fields):
        raise AssertionError

    assert trackers.tracked([], "toy", "abc", watch) is watch
