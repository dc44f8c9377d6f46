import json
import multiprocessing
import os
import shutil
import stat
import time
from dataclasses import replace

import pytest

from flyweight.core.events import Events
from flyweight.core.files import new_file, own_folder, remove_inside
from flyweight.errors import FlyweightError, RequestError
from flyweight.store.artifact import Artifact, Damaged, Identity, Store

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
    assert sorted(p.name for p in first.path.iterdir()) == [
        "config.yaml",
        "events.jsonl",
        "manifest.json",
        "model",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"config": {"a": 2}},
        {"seed": 1},
        {"threads": 2},
        {"dtype": "bf16"},
        {"parents": {"x": "y"}},
    ],
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


def stopped(draft):
    """Work that is killed after its checkpoint."""
    (draft.state / "step-00000001").mkdir(parents=True)
    (draft.state / "step-00000001" / "model.safetensors").write_bytes(b"weights")
    (draft.state / "current.json").write_text("{}")
    draft.events.emit("step", step=1)
    raise FlyweightError("killed")


def put_link(path, target):
    """Put a link in the place of what is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", [IDENTITY.id, f"{IDENTITY.id}.partial", ".locks"])
@pytest.mark.parametrize("target", ["", "file", "nowhere"])
def test_a_link_in_the_place_of_an_artifact_is_refused_and_not_followed(
    tmp_path, elsewhere, name, target
):
    root = tmp_path / "runs"
    root.mkdir()
    (root / name).symlink_to(elsewhere / target)
    with pytest.raises(RequestError, match=f"{name} is a symbolic link"):
        Store(root).obtain(IDENTITY, work)
    assert (root / name).is_symlink()


def test_a_link_in_the_place_of_a_lock_is_refused(tmp_path, elsewhere):
    store = Store(tmp_path / "runs")
    store.prepare()
    (store.root / ".locks" / f"{IDENTITY.id}.lock").symlink_to(elsewhere / "file")
    with pytest.raises(RequestError, match="symbolic link"):
        store.obtain(IDENTITY, work)


def test_what_a_lock_file_holds_stays(tmp_path, elsewhere):
    store = Store(tmp_path / "runs")
    store.prepare()
    os.link(elsewhere / "file", store.root / ".locks" / f"{IDENTITY.id}.lock")
    store.obtain(IDENTITY, work)


@pytest.mark.parametrize(
    "name", ["state", "state/current.json", "state/step-00000001", "events.jsonl"]
)
def test_a_resume_point_is_not_followed_elsewhere(tmp_path, elsewhere, name):
    store = Store(tmp_path / "runs")
    with pytest.raises(FlyweightError, match="killed"):
        store.obtain(IDENTITY, stopped)
    put_link(store.root / f"{IDENTITY.id}.partial" / name, elsewhere / name)
    with pytest.raises(RequestError, match=f"{name} is a symbolic link"):
        store.obtain(IDENTITY, work)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(
    "name", ["events.jsonl", "state/current.json", "config.yaml", "manifest.json"]
)
def test_a_pipe_among_what_a_killed_attempt_left_is_not_waited_for(tmp_path, name):
    store = Store(tmp_path / "runs")
    with pytest.raises(FlyweightError, match="killed"):
        store.obtain(IDENTITY, stopped)
    pipe = store.root / f"{IDENTITY.id}.partial" / name
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    artifact, _ = store.obtain(IDENTITY, work)
    assert all(path.is_dir() or path.is_file() for path in artifact.path.rglob("*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_the_place_of_a_manifest_is_damage(tmp_path):
    store = Store(tmp_path / "runs")
    artifact, _ = store.obtain(IDENTITY, work)
    (artifact.path / "manifest.json").unlink()
    os.mkfifo(artifact.path / "manifest.json")
    assert [isinstance(entry, Damaged) for entry in store.entries()] == [True]
    with pytest.raises(FlyweightError, match="pipe or a device"):
        store.obtain(IDENTITY, work)


@pytest.mark.parametrize("target", ["", "model", "file", "nowhere"])
def test_a_link_among_what_a_killed_attempt_left_is_removed_alone(tmp_path, elsewhere, target):
    store = Store(tmp_path / "runs")
    with pytest.raises(FlyweightError, match="killed"):
        store.obtain(IDENTITY, stopped)
    partial = store.root / f"{IDENTITY.id}.partial"
    put_link(partial / "config.yaml", elsewhere / target)
    put_link(partial / "model", elsewhere / target)
    artifact, _ = store.obtain(IDENTITY, work)
    assert not any(path.is_symlink() for path in artifact.path.rglob("*"))


def test_a_log_that_has_another_name_as_well_is_continued_in_a_file_of_its_own(tmp_path):
    store = Store(tmp_path / "runs")
    with pytest.raises(FlyweightError, match="killed"):
        store.obtain(IDENTITY, stopped)
    log = store.root / f"{IDENTITY.id}.partial" / "events.jsonl"
    os.link(log, tmp_path / "backup")
    before = log.read_bytes()
    artifact, _ = store.obtain(IDENTITY, work)
    assert (tmp_path / "backup").read_bytes() == before
    assert (artifact.path / "events.jsonl").read_bytes().startswith(before)
    assert len((artifact.path / "events.jsonl").read_bytes()) > len(before)


def test_a_folder_that_is_swapped_while_it_is_made_is_not_published(tmp_path, elsewhere):
    store = Store(tmp_path / "runs")
    partial = store.root / f"{IDENTITY.id}.partial"

    def swapped_for_a_link(draft):
        put_link(partial, elsewhere)
        return {"seconds": 1.0}

    def swapped_for_a_folder(draft):
        partial.rename(tmp_path / "aside")
        partial.mkdir()
        return {"seconds": 1.0}

    with pytest.raises(RequestError, match="symbolic link"):
        store.obtain(IDENTITY, swapped_for_a_link)
    partial.unlink()
    with pytest.raises(FlyweightError, match="replaced by another folder"):
        store.obtain(IDENTITY, swapped_for_a_folder)
    assert not (store.root / IDENTITY.id).exists()


def test_nothing_is_written_into_what_takes_the_place_of_a_half_made_folder(tmp_path, elsewhere):
    store = Store(tmp_path / "runs")
    partial = store.root / f"{IDENTITY.id}.partial"
    before, tried = sorted(elsewhere.rglob("*")), []

    def writes_on(draft):
        draft.events.emit("step", step=1)
        put_link(partial, elsewhere)
        for write in (
            lambda: draft.path / "x",
            lambda: draft.state / "x",
            lambda: draft.events.emit("step", step=2),
        ):
            with pytest.raises(RequestError, match="symbolic link"):
                write()
            tried.append(write)
        return {"seconds": 1.0}

    with pytest.raises(RequestError, match="symbolic link"):
        store.obtain(IDENTITY, writes_on)
    assert len(tried) == 3
    assert sorted(elsewhere.rglob("*")) == before


def test_a_new_folder_of_a_draft_was_not_there_before(tmp_path):
    def makes(draft):
        draft.new_folder("model")
        with pytest.raises(FlyweightError, match=r"model: .*File exists"):
            draft.new_folder("model")
        return {"seconds": 1.0}

    Store(tmp_path / "runs").obtain(IDENTITY, makes)


def test_only_the_folder_that_was_meant_is_emptied(tmp_path, elsewhere, monkeypatch):
    mine = tmp_path / "mine"
    made = own_folder(mine)
    (mine / "folder").mkdir()
    (mine / "folder" / "file").write_text("")
    (mine / "link").symlink_to(elsewhere)
    (mine / "kept").write_text("")
    remove_inside(mine, made, ["kept"])
    assert [path.name for path in mine.iterdir()] == ["kept"]
    opened, before = os.open, sorted(elsewhere.rglob("*"))

    def swapped(path, *arguments, **named):
        if path == mine:
            monkeypatch.undo()
            put_link(mine, elsewhere)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises((FlyweightError, OSError)):
        remove_inside(mine, made)
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("name", ["model", "model/weights", "config.yaml"])
def test_an_artifact_holds_its_files_itself(tmp_path, name):
    store = Store(tmp_path / "runs")
    artifact, _ = store.obtain(IDENTITY, work)
    (artifact.path / name).rename(tmp_path / "moved")
    (artifact.path / name).symlink_to(tmp_path / "moved")
    with pytest.raises(
        FlyweightError, match=f"{name}.* is (a symbolic link|not in the artifact's manifest)"
    ):
        store.find(IDENTITY)

    def links(draft):
        (draft.path / "weights").symlink_to(tmp_path / "moved")
        return {"seconds": 1.0}

    with pytest.raises(RequestError, match="weights is a symbolic link"):
        store.obtain(replace(IDENTITY, seed=3), links)


def test_the_folder_of_a_recipe_is_not_a_link(tmp_path, elsewhere):
    store = Store(tmp_path / "runs")
    store.prepare()
    (store.root / "mine").symlink_to(elsewhere)
    with pytest.raises(RequestError, match="mine is a symbolic link"), store.recipe_folder("mine"):
        raise AssertionError("it was entered")
    (store.root / "mine").unlink()
    (store.root / "mine").write_text("a file")
    with pytest.raises(RequestError, match="mine is not a folder"), store.recipe_folder("mine"):
        raise AssertionError("it was entered")


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "runs")
    artifact, _ = store.obtain(IDENTITY, work)
    assert store.obtain(IDENTITY, work) == (artifact, True)
    assert (tmp_path / "disk" / artifact.id).is_dir()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_modes_of_the_umask(tmp_path, umask):
    store = Store(tmp_path / "runs")

    def saves(draft):
        Events(draft.path / "events.jsonl").emit("step")
        with new_file(draft.path / "weights") as file:
            file.unlink()
            file.write_bytes(b"1")
            file.chmod(0o600)
        return {"seconds": 1.0}

    before = os.umask(umask)
    try:
        artifact, _ = store.obtain(IDENTITY, saves)
        copied = artifact.copy(tmp_path / "copy")
    finally:
        os.umask(before)
    for path in (store.root, *store.root.rglob("*"), copied.path, *copied.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, (
            path
        )


def test_a_copy_shares_no_file(tmp_path):
    artifact, _ = Store(tmp_path / "runs").obtain(IDENTITY, work)
    copied = artifact.copy(tmp_path / "copy")
    with open(copied.path / "model" / "weights", "r+b") as file:
        file.write(b"other")
    assert Artifact.open(artifact.path).manifest == copied.manifest
