"""What goes and what stays, on a runs root made of small artifacts and hand-made recipe folders."""

import json
import os
import shutil

import pytest

from flyweight.api import model_references
from flyweight.core.files import write_sealed
from flyweight.errors import FlyweightError
from flyweight.store import gc, locks, references
from flyweight.store.artifact import PARTIAL, Artifact, Identity, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def made(store, stage="pretrain", seed=0, **parents):
    def work(draft):
        (draft.path / "model").mkdir()
        (draft.path / "model" / "weights").write_bytes(bytes([seed]) * 100)
        return {"took": 1.0}

    identity = Identity(stage=stage, version=1, config={}, seed=seed, parents=parents)
    return store.obtain(identity, work)[0].id


def recipe(store, name, **stages):
    """Link a recipe's stages, as a run does before it writes its summary."""
    folder = store.root / name
    folder.mkdir(parents=True)
    for stage, identifier in stages.items():
        (folder / stage).symlink_to(f"../{identifier}", target_is_directory=True)
    return folder


@pytest.fixture
def chain(store):
    """A text, a model of it, its int8 with a measurement on another text, floors.

    And the same again that nothing refers to.
    """
    ids = {}
    for seed, prefix in ((1, "kept"), (2, "gone")):
        text = made(store, "corpus", seed)
        model = made(store, "pretrain", seed, corpus=text)
        small = made(store, "quantize", seed, input=model)
        other = made(store, "corpus", seed + 10)
        score = made(store, "evaluate", seed, input=small, corpus=other)
        floors = made(store, "floors", seed, corpus=other)
        ids |= {f"{prefix}-{name}": each for name, each in locals().items() if name in CHAIN}
    recipe(store, "mine", small=ids["kept-small"])
    return ids


CHAIN = ("text", "model", "small", "other", "score", "floors")


def names(found, *kinds):
    return {item.path.name for item in found.items if not kinds or item.kind in kinds}


def test_parents_texts_and_measurements_of_what_a_recipe_needs_stay(store, chain):
    found = gc.find(store)
    assert names(found, "artifact") == {chain[f"gone-{name}"] for name in CHAIN}
    users = references.read(store).users
    assert users[chain["kept-small"]] == ["mine:small"]
    assert all(users[chain[f"kept-{name}"]] == ["mine"] for name in CHAIN if name != "small")
    assert found.bytes == sum(item.bytes for item in found.items) > 600
    done = gc.collect(store)
    assert done.removed and names(done) == names(found)
    assert {path.name for path in store.root.glob("*-*")} == {
        chain[f"kept-{name}"] for name in CHAIN
    }
    assert not gc.find(store).items
    assert not list(store.root.glob(".*.trash"))


def test_only_what_was_named_goes(store, chain):
    gc.collect(store, among=[chain["gone-score"]])
    assert not (store.root / chain["gone-score"]).exists()
    assert (store.root / chain["gone-floors"]).exists()


def test_what_is_young_stays_with_what_it_was_made_from(store, chain):
    assert names(gc.find(store, older_than=3600)) == set()
    old = {"created": "2001-01-01T00:00:00Z"}
    for name in ("gone-text", "gone-other", "gone-score"):
        manifest = store.root / chain[name] / "manifest.json"
        content = {**json.loads(manifest.read_text()), **old}
        content.pop("digest")
        write_sealed(manifest, content)
    assert (
        names(gc.find(store, older_than=3600), "artifact") == set()
    )  # a young model needs all three
    shutil.rmtree(store.root / chain["gone-floors"])
    shutil.rmtree(store.root / chain["gone-small"])
    gone = {chain["gone-other"], chain["gone-score"]}
    assert names(gc.find(store, older_than=3600), "artifact") == gone


def test_what_is_half_made_is_as_old_as_its_last_checkpoint(store):
    folder = store.root / f"pretrain-00000001{PARTIAL}"
    (folder / "state").mkdir(parents=True)
    os.utime(folder, (1e9, 1e9))
    assert names(gc.find(store, older_than=3600)) == set()
    os.utime(folder / "state", (1e9, 1e9))
    assert names(gc.find(store, older_than=3600)) == {folder.name}


def test_half_made_ones_go_unless_somebody_is_at_them(store):
    for name in ("pretrain-00000001", "pretrain-00000002"):
        (store.root / f"{name}{PARTIAL}" / "state").mkdir(parents=True)
    state = {"progress": {"step": 7}}
    (store.root / f"pretrain-00000001{PARTIAL}" / "state" / "current.json").write_text(
        json.dumps(state)
    )
    (store.root / f"mine{PARTIAL}").mkdir()  # not an artifact's name, so not ours
    with store.locked("pretrain-00000002"):
        (item,) = gc.find(store).items
        assert item.kind == "half-made" and "step 7" in item.why
        listed = {each["id"]: each for each in model_references.listed(store)["items"]}
        assert (
            listed["pretrain-00000001"]["state"]
            == listed["pretrain-00000002"]["state"]
            == "half-made"
        )
        assert listed["pretrain-00000001"]["step"] == 7
        assert [listed[f"pretrain-0000000{n}"]["being_made"] for n in (1, 2)] == [False, True]
        gc.collect(store)
    assert (store.root / f"pretrain-00000002{PARTIAL}").exists()
    assert not (store.root / f"pretrain-00000001{PARTIAL}").exists()
    assert (store.root / f"mine{PARTIAL}").exists()


def test_lock_files_of_what_is_there_stay(store):
    kept, gone = made(store, seed=1), made(store, seed=2)
    recipe(store, "mine", model=kept)
    shutil.rmtree(store.root / gone)
    (store.root / ".locks" / ".use-0123abcd.lock").write_text("1 killed")
    with store.locked("held"):
        assert names(gc.find(store)) == {f"{gone}.lock", ".use-0123abcd.lock"}
        gc.collect(store)
        left = {path.name for path in (store.root / ".locks").iterdir()}
        assert left == {f"{kept}.lock", "held.lock", ".gate.lock"}


def test_links_are_removed_and_never_followed(store, tmp_path):
    identifier = made(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(store.root / identifier, outside / identifier)
    (store.root / identifier).symlink_to(outside / identifier, target_is_directory=True)
    (store.root / f"pretrain-00000001{PARTIAL}").symlink_to(outside, target_is_directory=True)
    (store.root / ".old.trash").symlink_to(outside, target_is_directory=True)
    (store.root / "elsewhere").symlink_to(outside, target_is_directory=True)
    (outside / ".x.partial").write_text("theirs")
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    done = gc.collect(store)
    assert {identifier, f"pretrain-00000001{PARTIAL}", ".old.trash"} <= names(done)
    assert before == {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    assert (store.root / "elsewhere").is_symlink()
    assert done.bytes < 1000


def test_a_damaged_one_goes_only_where_no_recipe_needs_it(store, chain):
    (store.root / chain["gone-model"] / "manifest.json").write_text("{")
    found = gc.find(store)
    assert names(found, "damaged") == {chain["gone-model"]} and not found.kept
    (store.root / chain["kept-small"] / "manifest.json").write_text("{")
    found = gc.find(store)
    (said,) = found.kept
    assert chain["kept-small"] in said and "mine:small" in said
    assert chain["kept-model"] not in names(found) and chain["kept-text"] not in names(found)


def test_a_damaged_summary_still_refers_by_its_links(store, chain):
    (store.root / "mine" / "summary.json").write_text("[]")
    assert names(gc.find(store), "artifact") == {chain[f"gone-{name}"] for name in CHAIN}


def test_what_a_study_names_in_its_results_is_needed(store, chain):
    (store.root / "grid").mkdir()
    told = {"created": "2026-01-02T03:04:05Z", "cells": [{"runs": [{"id": chain["gone-model"]}]}]}
    (store.root / "grid" / "study.json").write_text(json.dumps(told))
    left = {chain[f"gone-{name}"] for name in CHAIN} - {chain["gone-model"], chain["gone-text"]}
    assert names(gc.find(store), "artifact") == left
    users = references.read(store).users
    assert users[chain["gone-model"]] == users[chain["gone-text"]] == ["grid"]
    (study, _) = model_references.listed(store)["recipes"][::-1]
    assert (study["name"], study["created"], study["stages"]) == ("grid", "2026-01-02T03:04:05Z", 1)


def test_trash_and_half_written_files_of_reports_go(store):
    recipe(store, "mine", model=made(store))
    (store.root / ".pretrain-0.trash" / "deep").mkdir(parents=True)
    (store.root / "mine" / ".report.html.123.partial").write_text("half")
    with store.locked("mine"):
        assert names(gc.find(store)) == {".pretrain-0.trash"}
    assert names(gc.collect(store)) == {".pretrain-0.trash", ".report.html.123.partial"}
    assert not gc.find(store).items


def test_a_kill_in_the_middle_leaves_nothing_that_looks_whole_and_the_next_one_finishes(
    store, chain, monkeypatch
):
    def killed(path):
        next(file for file in sorted(path.rglob("*")) if file.is_file()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gc.shutil, "rmtree", killed)
        gc.collect(store)
    for path in store.root.glob("*-????????"):
        Artifact.open(path)
    assert names(gc.find(store), "trash") == {f".{chain[f'gone-{name}']}.trash" for name in CHAIN}
    gc.collect(store)
    assert {path.name for path in store.root.iterdir()} == {
        chain[f"kept-{name}"] for name in CHAIN
    } | {".locks", "mine"}


def test_a_root_that_is_not_there_has_nothing(store):
    assert gc.find(store).items == ()
    assert model_references.listed(store) == {"items": [], "recipes": [], "bytes": 0}


def test_nothing_goes_while_a_process_works(store, chain):
    with (
        locks.working(store, "flyweight run other"),
        pytest.raises(FlyweightError, match="flyweight run other"),
    ):
        gc.collect(store)
    assert (store.root / chain["gone-model"]).exists()


def test_a_half_made_artifact_refers_to_nothing(store):
    """Killed after its manifest was written and before its rename: its files name what it was made from."""
    parent = made(store)
    child = made(store, "quantize", input=parent)
    (store.root / child).rename(store.root / f"{child}{PARTIAL}")
    assert references.read(store).users == {}
    assert {item.path.name for item in gc.find(store).items if item.kind != "lock"} == {
        parent,
        f"{child}{PARTIAL}",
    }


def test_collecting_follows_no_link(store, elsewhere):
    kept = made(store)
    folder = recipe(store, "mine", model=kept)
    (folder / ".half.partial").symlink_to(elsewhere / "file")
    (folder / ".deep.partial").symlink_to(elsewhere)
    (store.root / "linked").symlink_to(elsewhere)
    (store.root / ".old.trash").symlink_to(elsewhere)
    (store.root / ".locks" / "gone-01234567.lock").symlink_to(elsewhere / "file")
    (store.root / f"pretrain-00000002{PARTIAL}").symlink_to(elsewhere)
    gone = made(store, seed=5)
    (store.root / gone / "inner").symlink_to(elsewhere)
    (store.root / f".{gone}.trash").symlink_to(elsewhere)
    model_references.listed(store)
    gc.collect(store)
    left = {path.name for path in store.root.iterdir()}
    assert left == {kept, "mine", "linked", ".locks"}
    assert [path.name for path in folder.iterdir()] == ["model"]


def test_a_linked_folder_of_locks_is_refused(store, elsewhere):
    made(store)
    shutil.rmtree(store.root / ".locks")
    (store.root / ".locks").symlink_to(elsewhere)
    with pytest.raises(FlyweightError, match="symbolic link"):
        gc.collect(store)


def test_the_size_of_a_linked_root_is_that_of_what_it_leads_to(store, tmp_path):
    made(store)
    (tmp_path / "link").symlink_to(store.root)
    assert (
        model_references.listed(Store(tmp_path / "link"))["bytes"]
        == model_references.listed(store)["bytes"]
        > 100
    )
