"""A stage that imports a model packed: the same artifact as the verb's, a teacher, and planned before it is fetched."""

import json

import hub_fixture
import pytest

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.errors import RequestError
from flyweight.spec import flops

STUDENT = {
    "stage": "distill",
    "teacher": "teacher",
    "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
    "train": {"steps": 2, "batch": 2, "validations": 1, "precision": "fp32"},
}


@pytest.fixture
def raw(text_file, tmp_path):
    hub_fixture.save("qwen3", tmp_path / "hf", shard="20KB")
    return {
        "name": "taught",
        "data": {"corpus": str(text_file), "tokenizer": {"kind": "model"}, "context": 32},
        "stages": {
            "teacher": {"stage": "import", "input": str(tmp_path / "hf"), "as": "nf4"},
            "student": STUDENT,
        },
        "report": {"measure": [], "compare": ["student"]},
    }


def test_a_packed_import_teaches_and_is_the_artifact_of_the_verb(raw, flyweight, tmp_path):
    session = Session(runs=tmp_path / "runs", threads=1, quiet=True)
    run = fw.run(config_load.recipe(raw), session=session)
    status, out, err = flyweight("import", tmp_path / "hf", "--as", "nf4", "--json")
    assert status == 0, err
    assert json.loads(out)["id"] == run["teacher"].id
    assert run["student"].identity["parents"]["teacher"] == run["teacher"].id
    text = (run["student"].path / "README.md").read_text()
    assert f"distilled from `{run['teacher'].id}`" in text
    again = fw.run(config_load.recipe(raw), session=session)
    assert all(stage.reused for stage in again.summary.stages)
    told = fw.generate(run["teacher"], "a", max_new_tokens=2, session=session)
    assert told


def test_a_folder_that_is_there_is_refused_before_anything_is_packed(raw, flyweight, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    words = ("--as", "nf4", "--out", taken, "--runs", tmp_path / "runs")
    status, _, err = flyweight("import", tmp_path / "hf", *words)
    assert status == 2 and "there is something already" in err
    assert not list((tmp_path / "runs").glob("import-*"))


def test_without_the_import_the_student_learns_from_the_float_model(raw, tmp_path):
    whole = config_load.without_stages(raw, ["teacher"])
    assert whole["stages"]["student"]["teacher"] == str(tmp_path / "hf")


def test_a_teacher_of_the_hub_is_planned_before_it_is_fetched(raw):
    raw["stages"]["teacher"]["input"] = "hf:Qwen/Qwen3-8B"
    planned = fw.plan(raw, session=Session(quiet=True))
    assert planned.stages[0].memory.teacher == pytest.approx(4.83e9, rel=0.01)
    raw["stages"]["teacher"]["input"] = "hf:somebody/else"
    planned = fw.plan(raw, session=Session(quiet=True))
    assert any("known once it is fetched" in note for note in planned.assumed)
    assert planned.stages[0].memory.teacher == 0
    model = planned.stages[0].training.model
    assert flops.parameters(model).unique > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": "teacher"}, "neither a folder nor hf:owner/name"),
        ({"as": "nf5"}, "as: .*nf5"),
        ({"as": None, "embedding": "int8"}, "without as nothing is packed"),
        ({"into": "nf4"}, "into"),
    ],
)
def test_wrong_fields_of_an_import_are_refused(fields, message, raw):
    raw["stages"]["teacher"] |= fields
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)


def test_packed_matrices_are_not_trained_further(raw):
    raw["stages"]["student"] = {**STUDENT, "stage": "pretrain", "input": "teacher"}
    for field in ("teacher", "model"):
        del raw["stages"]["student"][field]
    with pytest.raises(RequestError, match=r"teacher has its matrices packed"):
        config_load.recipe(raw)
