import json
import multiprocessing
import os
import time
from dataclasses import replace

import pytest

from flyweight.core.artifact import Artifact, Identity, Store
from flyweight.errors import FlyweightError, RequestError

IDENTITY = Identity(stage="toy", version=1, config={"a": 1})


def work(draft):
    (draft.path / "model").mkdir()
    (draft.path / "model" / "weights").write_bytes(b"12345678")
    draft.events.emit("step", step=1)
    return {"seconds": 1.0}


def test_an_artifact_is_made_once(tmp_path):
    store, calls = Store(tmp_path / "runs"), []

    def counted(draft):
        calls.append(1)
        return work(draft)

    first, reused = store.obtain(IDENTITY, counted)
    again, reused_again = store.obtain(IDENTITY, counted)
    assert (reused, reused_again, len(calls)) == (False, True, 1)
    assert first.id == again.id == IDENTITY.id
    assert first.path.name.startswith("toy-")
    assert sorted(p.name for p in first.path.iterdir()) == ["config.yaml", "events.jsonl", "manifest.json", "model"]


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"config": {"a": 2}}, {"seed": 1}, {"threads": 2}, {"dtype": "bf16"}, {"parents": {"x": "y"}}]
)
def test_everything_in_an_identity_counts(change):
    assert replace(IDENTITY, **change).id != IDENTITY.id


@pytest.mark.parametrize("name", ["model/weights", "events.jsonl", "config.yaml", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "empty"])
def test_damage_is_found_and_named(tmp_path, name, harm):
    store = Store(tmp_path)
    artifact, _ = store.obtain(IDENTITY, work)
    path = artifact.path / name
    content = path.read_bytes()
    middle = len(content) // 2
    if harm == "delete":
        path.unlink()
    else:
        changed = {
            "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "truncate": content[:middle],
            "empty": b"",
        }
        path.write_bytes(changed[harm])
    with pytest.raises(FlyweightError, match=path.name):
        store.find(IDENTITY)


def test_a_copied_folder_is_not_taken_for_another_artifact(tmp_path):
    store, other = Store(tmp_path), replace(IDENTITY, seed=5)
    artifact, _ = store.obtain(IDENTITY, work)
    os.rename(artifact.path, tmp_path / other.id)
    with pytest.raises(FlyweightError, match="renamed or swapped"):
        store.find(other)


def test_a_failed_attempt_leaves_nothing_finished_and_the_next_one_starts_clean(tmp_path):
    store = Store(tmp_path)

    def fails(draft):
        (draft.path / "half").write_text("x")
        raise FlyweightError("broke")

    with pytest.raises(FlyweightError, match="broke"):
        store.obtain(IDENTITY, fails)
    assert store.find(IDENTITY) is None
    artifact, _ = store.obtain(IDENTITY, work)
    assert not (artifact.path / "half").exists()


def test_a_resume_point_and_its_log_survive_a_failed_attempt(tmp_path):
    store = Store(tmp_path)

    def stops(draft):
        draft.state.mkdir()
        (draft.state / "current.json").write_text("{}")
        draft.events.emit("step", step=1)
        raise FlyweightError("killed")

    def goes_on(draft):
        assert (draft.state / "current.json").exists()
        assert draft.events.mark()[0] > 0
        return {"seconds": 0.0}

    with pytest.raises(FlyweightError, match="killed"):
        store.obtain(IDENTITY, stops)
    artifact, _ = store.obtain(IDENTITY, goes_on)
    assert not (artifact.path / "state").exists()


def _slow(root, log):
    def counted(draft):
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.5)
        return work(draft)

    Store(root).obtain(IDENTITY, counted)


def test_two_processes_make_it_once(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_slow, args=(tmp_path / "runs", log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert log.read_text() == "made\n"


def test_a_runs_root_that_is_a_file_or_read_only_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="not a folder"):
        Store(tmp_path / "file").prepare()


def test_the_manifest_says_what_it_was_made_from(tmp_path):
    artifact, _ = Store(tmp_path).obtain(IDENTITY, work, command="flyweight run x")
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["identity"]["config"] == {"a": 1}
    assert manifest["command"] == "flyweight run x"
    assert manifest["files"]["model/weights"]["bytes"] == 8
    assert Artifact.open(artifact.path).facts == {"seconds": 1.0}
