import json
import multiprocessing
import os

import pytest

from flyweight.core.measured import FOLDER, Fact, obtain


class Watched:
    def __init__(self):
        self.events = []

    def __call__(self, kind, fields):
        self.events.append((kind, fields))


def fact(value, key="a", calls=None):
    def measure():
        if calls is not None:
            calls.append(value)
        return value

    return of(measure, key)


def _plain(number):
    return {"value": number}


def _read(plain):
    return plain["value"]


def of(measure, key="a"):
    return Fact("speed", "the speed", {"processor": key}, measure, _plain, _read)


def test_a_value_is_measured_once_and_then_read(tmp_path):
    calls = []
    assert obtain(fact(1.5, calls=calls), tmp_path) == (1.5, True)
    assert obtain(fact(2.5, calls=calls), tmp_path) == (1.5, False)
    assert calls == [1.5]


def test_another_machine_has_its_own(tmp_path):
    obtain(fact(1.5), tmp_path)
    assert obtain(fact(2.5, key="b"), tmp_path) == (2.5, True)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_no_runs_root_keeps_nothing(tmp_path):
    assert obtain(fact(1.5), None) == (1.5, True)
    assert obtain(fact(1.5), tmp_path / "absent") == (1.5, True)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"value": {"value": 9.0}}', "[1]", "\0"])
def test_a_damaged_file_is_measured_anew_said_and_replaced(tmp_path, damage):
    obtain(fact(1.5), tmp_path)
    fact(1.5).path(tmp_path).write_text(damage)
    watch = Watched()
    assert obtain(fact(2.5), tmp_path, watch) == (2.5, True)
    assert [kind for kind, _ in watch.events] == ["unkept"] and watch.events[0][1][
        "what"
    ] == "the speed"
    assert obtain(fact(3.5), tmp_path) == (2.5, False)


def test_a_value_that_cannot_be_one_is_measured_anew(tmp_path):
    other = Fact(
        "speed",
        "the speed",
        {"processor": "a"},
        lambda: 1,
        lambda number: {"else": number},
        lambda plain: 1,
    )
    obtain(other, tmp_path)
    watch = Watched()
    assert obtain(fact(2.5), tmp_path, watch) == (2.5, True)
    assert watch.events


def test_where_nothing_can_be_written_the_value_still_counts(tmp_path):
    (tmp_path / FOLDER).write_text("a file in the way")
    watch = Watched()
    assert obtain(fact(1.5), tmp_path, watch) == (1.5, True)
    assert [kind for kind, _ in watch.events] == ["unkept"]


def test_the_first_of_two_processes_is_believed(tmp_path):
    def measure():
        assert obtain(fact(1.5), tmp_path) == (1.5, True)  # another process finishes meanwhile
        return 2.5

    assert obtain(of(measure), tmp_path) == (1.5, False)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [fact(0).path(tmp_path).name]


def _race(root, value, results):
    results.put(obtain(fact(value), root)[0])


def test_processes_that_start_together_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_race, args=(tmp_path, float(number), results))
        for number in range(8)
    ]
    for worker in workers:
        worker.start()
    values = {results.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    kept = json.loads(fact(0).path(tmp_path).read_text())["value"]["value"]
    assert values == {kept}
    assert os.listdir(tmp_path / FOLDER) == [fact(0).path(tmp_path).name]


def test_a_linked_folder_or_file_keeps_nothing_elsewhere(tmp_path, elsewhere):
    root = tmp_path / "runs"
    root.mkdir()
    watched = Watched()
    (root / FOLDER).symlink_to(elsewhere)
    assert obtain(fact(1.5), root, watched) == (1.5, True)
    assert watched.events and "symbolic link" in watched.events[-1][1]["why"]
    (root / FOLDER).unlink()
    (root / FOLDER).mkdir()
    fact(1.5).path(root).symlink_to(elsewhere / "file")
    assert obtain(fact(2.5), root, watched) == (2.5, True)
    assert obtain(fact(3.5), root) == (2.5, False)


def test_what_killed_processes_left_goes_and_what_living_ones_write_stays(tmp_path):
    obtain(fact(1), tmp_path)
    (kept,) = (tmp_path / FOLDER).iterdir()
    dead = kept.with_name(f"..{kept.name}.999999999.new.999999999.partial")
    alive = kept.with_name(f".{kept.name}.{os.getppid()}.new")
    for path in (dead, alive):
        path.write_text("{")
    kept.unlink()
    assert obtain(fact(2), tmp_path)[0] == 2
    assert {path.name for path in kept.parent.iterdir()} == {kept.name, alive.name}
