"""Who works in a runs root, and who may remove things there."""

import multiprocessing
import os
import signal
import stat

import pytest

from flyweight.errors import FlyweightError
from flyweight.store import locks as usage
from flyweight.store.artifact import Store


def test_nobody_removes_while_somebody_works(tmp_path):
    store = Store(tmp_path)
    mine = rf"{os.getpid()} \(flyweight run x\)"
    with (
        usage.working(store, "flyweight run x"),
        pytest.raises(FlyweightError, match=mine),
        usage.alone(store),
    ):
        raise AssertionError("it went on")
    with usage.alone(store):
        pass
    assert [path.name for path in (tmp_path / ".locks").iterdir()] == [".gate.lock"]


def test_work_inside_of_work_is_the_same_work(tmp_path):
    store = Store(tmp_path)
    with usage.working(store), usage.working(store):
        pass
    with usage.alone(store):
        pass


def _wait_inside(root, begun):
    with usage.working(Store(root)):
        begun.set()
        signal.pause()


def test_a_killed_process_holds_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=_wait_inside, args=(tmp_path, begun))
    process.start()
    assert begun.wait(60)
    with pytest.raises(FlyweightError, match=str(process.pid)), usage.alone(Store(tmp_path)):
        pass
    process.kill()
    process.join(60)
    with usage.alone(Store(tmp_path)):
        pass


def _work(root, told):
    with usage.working(Store(root), watch=lambda kind, fields: told.put((kind, fields["why"]))):
        told.put(("begun", ""))


def test_work_waits_until_the_removal_is_over_and_says_so(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(usage, "INSTANT", 0.1)
    told = context.Queue()
    with usage.alone(Store(tmp_path)):
        process = context.Process(target=_work, args=(tmp_path, told))
        process.start()
        kind, why = told.get(timeout=30)
        assert kind == "waiting" and "removing" in why
        assert told.empty()
    assert told.get(timeout=30)[0] == "begun"
    process.join(30)


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with usage.working(Store(tmp_path)):
        assert list((tmp_path / ".locks").iterdir()) == []


def test_a_lock_is_held_or_not(tmp_path):
    store = Store(tmp_path)
    assert not usage.held(tmp_path / ".locks" / "x.lock")
    with store.locked("x"):
        assert usage.held(tmp_path / ".locks" / "x.lock")
    assert not usage.held(tmp_path / ".locks" / "x.lock")


def test_a_link_is_nobodys_lock(tmp_path, elsewhere):
    store = Store(tmp_path / "runs")
    store.prepare()
    locks = store.root / ".locks"
    (locks / ".use-0123abcd.lock").symlink_to(elsewhere / "file")
    assert not usage.held(locks / ".use-0123abcd.lock")
    with usage.alone(store):
        pass
    with usage.working(store, "flyweight run x"):
        pass
    (locks / ".gate.lock").unlink()
    (locks / ".gate.lock").symlink_to(elsewhere / ".gate.lock")
    with pytest.raises(FlyweightError, match="symbolic link"), usage.alone(store):
        raise AssertionError("it went on")
    with usage.working(store, "flyweight ls"):
        pass
