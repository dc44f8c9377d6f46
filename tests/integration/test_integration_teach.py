"""Distillation from a record: the same as beside the teacher, resumed, counted once, refused where it does not fit."""

import numpy as np
import pytest
import torch

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.data.corpus import Corpus
from flyweight.data.told import Told
from flyweight.data.windows import Windows
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.training import teach

STEPS, BATCH = 6, 4


@pytest.fixture
def raw(text_file):
    taught = {"stage": "distill", "teacher": "teacher", "model": {"dim": 16}}
    return {
        "name": "told",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
        "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
        "train": {"steps": STEPS, "batch": BATCH, "validations": 1, "precision": "fp32"},
        "stages": {
            "teacher": {"stage": "pretrain", "train": {"steps": 20}},
            "whole": {
                "stage": "teach",
                "teacher": "teacher",
                "rows": STEPS * BATCH,
                "k": 10_000,
                "store": "fp32",
            },
            "beside": taught,
            "from-whole": {**taught, "told": "whole"},
        },
        "report": {"measure": ["evaluate"], "compare": ["beside", "from-whole"]},
    }


def session(tmp_path):
    return Session(runs=tmp_path / "runs", threads=1, quiet=True)


def weights(run, name):
    return folder.load(run[name].path / "model").state_dict()


def test_a_whole_record_teaches_as_its_teacher_does(raw, tmp_path, monkeypatch):
    groups, calls = teach._groups, []

    def interrupted(first, meta):
        for group in groups(first, meta):
            if calls.append(group) or len(calls) == 1:
                yield group
                continue
            raise KeyboardInterrupt

    monkeypatch.setattr(teach, "TOKENS_AT_ONCE", 5 * 32)
    monkeypatch.setattr(teach, "SAVED_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(teach, "_groups", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fw.run(config_load.recipe(raw), session=session(tmp_path))
    resumed = []
    monkeypatch.setattr(
        teach, "_groups", lambda first, meta: resumed.append(first) or groups(first, meta)
    )
    plan = fw.plan(raw, session=session(tmp_path))
    assert {stage.name for stage in plan.stages} == {"teacher", "beside", "from-whole"}
    assert next(row.seconds for row in plan.beside if "whole" in row.name) > 0
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    assert resumed == [5], "it went on behind what was marked"
    facts = run["whole"].facts
    assert facts["kept_mass"] == pytest.approx(1, abs=1e-5)
    assert facts["rows"] == STEPS * BATCH and facts["tokens"] == STEPS * BATCH * 32
    beside, told = weights(run, "beside"), weights(run, "from-whole")
    for name, value in beside.items():
        torch.testing.assert_close(told[name], value, rtol=1e-4, atol=1e-5, msg=name)

    spent = {name: run[name].facts for name in ("teacher", "whole", "beside", "from-whole")}
    assert spent["from-whole"]["flops"] < spent["beside"]["flops"]
    total = spent["teacher"]["flops"] + spent["whole"]["flops"] + spent["from-whole"]["flops"]
    assert spent["from-whole"]["total_flops"] == total, "the teacher's training counts once"


def test_a_stage_that_was_killed_right_after_its_last_row_is_made_again(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(teach, "SAVED_EVERY", 0.0)

    def killed(teacher, length):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(teach.load_any, "forward_flops", killed)  # asked behind the move
        del raw["stages"]["beside"], raw["report"]["compare"]
        with pytest.raises(KeyboardInterrupt):
            fw.run(config_load.recipe(raw), session=session(tmp_path))
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    assert run["whole"].facts["rows"] == STEPS * BATCH


def test_a_few_tokens_keep_some_of_the_mass(raw, tmp_path):
    raw["stages"]["whole"] |= {"k": 8, "store": "fp16"}
    raw["stages"]["sharp"] = {**raw["stages"]["from-whole"], "objective": {"rest": "renormalise"}}
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    facts = run["whole"].facts
    assert 0.1 < facts["kept_mass"] < 0.999
    assert facts["bytes"] == pytest.approx(STEPS * BATCH * 32 * 8 * 4, rel=0.1)
    assert run["sharp"].facts["best_nll"] != run["from-whole"].facts["best_nll"]


def test_several_teachers_tell_the_mean_of_their_probabilities(raw, tmp_path):
    raw["stages"] = {
        "one": raw["stages"]["teacher"],
        "two": {"stage": "pretrain", "model": {"dim": 16}, "train": {"steps": 8}},
        "student": {
            "stage": "distill",
            "teacher": ["one", "two"],
            "model": {"dim": 16},
            "told": {"k": 257, "store": "fp32"},
            "controls": ["same_compute"],
        },
    }
    raw["report"] = {"measure": ["evaluate"], "compare": ["student"]}
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    record = Told(run["student-told"].path / "told")
    read = record.record(np.arange(3))
    corpus = Corpus.open(run["one"].path.parent / run["one"].facts["corpus"] / "corpus")
    windows = Windows(corpus.split("train"), 32, 3, 0).batch(0)
    mean = sum(
        folder.load(run[name].path / "model")(windows.inputs).softmax(-1) for name in ("one", "two")
    )
    torch.testing.assert_close(
        read.log_probs.exp(), (mean / 2).gather(-1, read.tokens), rtol=1e-4, atol=1e-6
    )
    spent = [run[name].facts["flops"] for name in ("one", "two", "student-told", "student")]
    assert run["student"].facts["total_flops"] == sum(spent)
    alone = run["student-same-compute"].facts
    assert alone["flops"] == pytest.approx(sum(spent), rel=0.05)
    card = (run["student"].path / "README.md").read_text()
    assert f"distilled from `{run['one'].id}` and `{run['two'].id}` by its record" in card


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"objective": {"temperature": 2.0}}, "the record is of temperature 1, and objective"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(raw, tmp_path, stage, message):
    raw["stages"]["from-whole"] |= stage
    with pytest.raises(RequestError, match=message):
        fw.run(config_load.recipe(raw), session=session(tmp_path))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"objective": {"hidden": {"places": {0: 0}}}}, "a record has no hidden states"),
        ({"train": {"steps": None, "time": "3s"}}, "told: how many rows are read has to be known"),
        ({"told": "teacher"}, "told: teacher is a stage pretrain; name a stage teach"),
        ({"teacher": "beside"}, "told: whole is the record of teacher, and the teacher is beside"),
        ({"told": "nobody"}, "nobody"),
        ({"train": {"steps": STEPS + 1}}, "the record has 24 rows, and this training reads 28"),
        ({"data": {"context": 8}}, "the record is of another context .32, and this training reads"),
        (
            {"teacher": ["teacher", "beside"], "told": None},
            "several teachers tell before a student",
        ),
        (
            {"teacher": ["teacher", "beside"]},
            "the teacher is teacher and beside; name its own record",
        ),
        ({"told": None, "objective": {"rest": "renormalise"}}, "objective.rest: is about a record"),
    ],
)
def test_contradictions_are_found_before_anything_runs(raw, stage, message):
    raw["stages"]["from-whole"] |= stage
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)
