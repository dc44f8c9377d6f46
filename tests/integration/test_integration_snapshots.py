"""Snapshots of a training: kept to the bit through kills, named as MODELs, teachers alone or among several."""

import pytest
import torch
from safetensors.torch import load_file

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.training.trainer import Trainer

STEPS, BATCH, T = 8, 4, 32
CONSTANT = {"warmup": 0.0, "tail": "none"}


@pytest.fixture
def raw(text_file):
    return {
        "name": "kept",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": T},
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "train": {
            "steps": STEPS,
            "batch": BATCH,
            "validations": 1,
            "validation_tokens": 512,
            "precision": "fp32",
            "schedule": CONSTANT,
            "keep": "last",
        },
        "stages": {"base": {"stage": "pretrain", "train": {"snapshots": [0.75, 0.5]}}},
        "report": {"measure": ["evaluate"], "compare": ["base"]},
    }


def session(tmp_path):
    return Session(runs=tmp_path / "runs", threads=1, quiet=True)


def run(raw, tmp_path):
    return fw.run(config_load.recipe(raw), session=session(tmp_path))


def kept(artifact):
    return {file.name: load_file(file) for file in sorted((artifact.path / "snapshots").iterdir())}


@pytest.mark.parametrize("average", [None, {"decay": 0.9}])
def test_a_snapshot_is_the_model_of_a_training_that_ended_there(raw, tmp_path, average):
    raw["train"]["average"] = average
    raw["stages"]["half"] = {"stage": "pretrain", "train": {"steps": STEPS // 2}}
    raw["report"]["compare"] = ["base", "base@0.5", "half"]
    done = run(raw, tmp_path)
    snapshot, half = done["base-at-50"], done["half"]
    assert snapshot.facts["step"] == STEPS // 2
    ours, theirs = (folder.load(each.path / "model").state_dict() for each in (snapshot, half))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert snapshot.facts["best_nll"] == pytest.approx(half.facts["best_nll"], abs=1e-6)
    assert [entry["at"] for entry in done["base"].facts["snapshots"]] == [0.5, 0.75]
    assert sorted(kept(done["base"])) == ["0.5.safetensors", "0.75.safetensors"]
    card = (snapshot.path / "README.md").read_text()
    assert f"`{done['base'].id}` as it was at 0.5 of its training, after step 4" in card
    assert "base-at-50" in (tmp_path / "runs" / "kept" / "report.html").read_text()


@pytest.mark.parametrize("killed_at", [3, 5, 7])
def test_a_killed_training_keeps_the_same_snapshots(raw, tmp_path, monkeypatch, killed_at):
    raw["train"] |= {"average": {"decay": 0.9}, "checkpoint": "0.000001s"}
    whole = run(raw, tmp_path / "whole")["base"]
    step = Trainer.step

    def killed(self, state):
        if state.progress.step == killed_at:
            raise KeyboardInterrupt
        return step(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(raw, tmp_path / "parts")
    parts = run(raw, tmp_path / "parts")["base"]
    ours, theirs = kept(parts), kept(whole)
    assert ours.keys() == theirs.keys()
    for file, tensors in theirs.items():
        for name, value in tensors.items():
            assert torch.equal(ours[file][name], value), (file, name)
    assert parts.facts["snapshots"] == whole.facts["snapshots"]
    assert not (parts.path / "state").exists()


def test_a_kill_right_behind_a_snapshot_makes_it_again(raw, tmp_path, monkeypatch):
    whole = run(raw, tmp_path / "whole")["base"]
    save = Trainer._save

    def killed(self, state):
        if state.progress.snapshots:
            raise KeyboardInterrupt
        save(self, state)

    raw["train"]["checkpoint"] = "0.000001s"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(raw, tmp_path / "parts")
    parts = run(raw, tmp_path / "parts")["base"]
    for file, tensors in kept(whole).items():
        assert all(torch.equal(kept(parts)[file][name], tensors[name]) for name in tensors)


def test_a_snapshot_is_named_as_a_model_and_made_once(raw, tmp_path):
    raw["stages"]["best"] = {"stage": "select", "among": ["base", "base@0.75"]}
    raw["report"]["compare"] = ["base", "base@0.75", "best"]
    done = run(raw, tmp_path)
    assert done["best"].facts["chosen"] in ("base", "base-at-75")
    at = session(tmp_path)
    found = fw.evaluate("kept:base@0.75", session=at)
    measured = fw.evaluate("kept:base-at-75", session=at)
    assert found.nll.value == measured.nll.value
    assert len(list((tmp_path / "runs").glob("snapshot-*"))) == 1
    assert fw.evaluate(f"{done['base'].id}@0.5", session=at).nll.value != found.nll.value
    with pytest.raises(RequestError, match=r"keeps snapshots at 0.5, 0.75, and none at 0.25"):
        fw.evaluate("kept:base@0.25", session=at)
    with pytest.raises(RequestError, match=r"snapshots=\[0.25, 0.5, 0.75\]"):
        fw.evaluate("kept:base@0.25", session=at)
    with pytest.raises(RequestError, match="comes from a stage select, which does not train"):
        fw.evaluate("kept:best@0.5", session=at)


def test_snapshots_teach_alone_and_among_several(raw, tmp_path):
    raw["stages"] |= {
        "alone": {"stage": "distill", "teacher": "base@0.5", "model": {"dim": 8}},
        "several": {
            "stage": "distill",
            "teacher": ["base", "base@0.5"],
            "told": {"k": 32},
            "model": {"dim": 8},
            "train": {"snapshots": []},
        },
        "again": {"stage": "pretrain", "input": "base@0.75", "train": {"steps": 2}},
    }
    raw["report"]["compare"] = ["alone", "several"]
    done = run(raw, tmp_path)
    base = done["base"].facts
    record = done["several-told"].facts
    assert done["base-at-50"].facts["total_flops"] == base["total_flops"]
    assert record["total_flops"] == base["total_flops"] + record["flops"], "counted once"
    assert done["alone"].identity["parents"]["teacher"] == done["base-at-50"].id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"snapshots": [0.5, 0.5]}}, "names a point twice"),
        ({"train": {"snapshots": [1.0]}}, "snapshots"),
        ({"train": {"snapshots": [0.75]}}, r"base keeps no snapshot at 0.5; ask for it: stages.*"),
    ],
)
def test_points_that_are_not_kept_are_found_before_anything_runs(raw, changes, message):
    raw["stages"]["base"] |= changes
    raw["stages"]["other"] = {"stage": "pretrain", "input": "base@0.5"}
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)


def test_names_of_snapshots_may_be_taken_and_other_stages_have_none(raw):
    raw["stages"]["small"] = {"stage": "quantize", "input": "base", "kind": "int8"}
    raw["report"]["compare"] = ["small@0.5"]
    with pytest.raises(RequestError, match="small is a stage quantize, which does not train"):
        config_load.recipe(raw)
    raw["report"]["compare"] = ["base@0.5"]
    raw["stages"]["base-at-50"] = {"stage": "quantize", "input": "base", "kind": "int8"}
    with pytest.raises(RequestError, match="a stage base-at-50 is there already"):
        config_load.recipe(raw)


def test_a_loop_that_is_not_on_yet_is_refused(raw, tmp_path):
    raw["model"]["sharing"] = {"kind": "span", "span": [0, 0], "times": 2, "loop_from": 0.6}
    with pytest.raises(RequestError, match=r"at 0\.5 the layers are not looped yet"):
        run(raw, tmp_path)


@pytest.mark.parametrize(
    "tuning",
    [
        {"method": {"kind": "lora", "r": 2}},
        {"method": {"kind": "full"}, "round": "int4"},
        {"method": {"kind": "full"}, "train": {"memory": {"weights": "bf16"}, "precision": "bf16"}},
    ],
    ids=["lora", "round", "bf16"],
)
def test_what_does_not_train_is_that_of_the_finished_model(raw, tmp_path, tuning):
    train = {"snapshots": [0.5], "steps": 4, **tuning.pop("train", {})}
    raw["stages"]["tuned"] = {"stage": "finetune", "input": "base", "train": train, **tuning}
    raw["report"]["compare"] = ["tuned", "tuned@0.5"]
    done = run(raw, tmp_path)
    ours, theirs = (
        folder.load(done[name].path / "model").state_dict() for name in ("tuned-at-50", "tuned")
    )
    trained = kept(done["tuned"])["0.5.safetensors"]
    assert ours.keys() == theirs.keys() and trained
    for name, value in ours.items():
        expected = trained[name].float() if name in trained else theirs[name]
        assert torch.equal(value, expected), name
    assert any(not torch.equal(theirs[name], value.float()) for name, value in trained.items())
