"""A stage that trains on from another stage's model is planned with that model."""

import pytest
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load
from flyweight.errors import RequestError


def planned(text_file, tmp_path, **stages):
    recipe = load.recipe(toy(text_file, **stages))
    return fw.plan(recipe, session=Session(runs=tmp_path / "runs", threads=1))


def on(source):
    return {"stage": "pretrain", "input": source, "model": None}


def test_a_model_is_planned_through_several_trainings(text_file, tmp_path):
    pick = {"stage": "select", "among": ["teacher", "third"]}
    stages = {"again": on("teacher"), "third": on("again"), "pick": pick, "chosen": on("pick")}
    plan = planned(text_file, tmp_path, **stages)
    rows = {stage.name: stage for stage in plan.stages}
    for name in ("again", "third", "chosen"):
        assert rows[name].model.parameters == rows["teacher"].model.parameters
        assert rows[name].flops == rows["teacher"].flops
    assert not [note for note in plan.assumed if "it starts from" in note]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pick", "on: the model it starts from is known once pick has run, and is not planned"),
        ("hf:me/one", "on: the model it starts from is outside this recipe and is not planned"),
    ],
)
def test_what_cannot_be_planned_says_why(text_file, tmp_path, source, expected):
    unlike = {"stage": "select", "among": ["teacher", "student"]}
    plan = planned(text_file, tmp_path, pick=unlike, on=on(source))
    assert expected in plan.assumed
    assert "on" not in {stage.name for stage in plan.stages}


def test_a_fault_of_a_stage_that_does_not_train_names_the_stage(text_file, tmp_path):
    zeros = {"stage": "prune", "input": "teacher", "of": "adapters", "sparsity": 0.5}
    with pytest.raises(RequestError, match=r"^stages\.zeros: prune: the model has no LoRA"):
        planned(text_file, tmp_path, zeros=zeros)


def test_a_row_for_many_stages_leaves_room_for_its_numbers(text_file, tmp_path):
    sizes = {
        f"size-{n}": {"stage": "quantize", "input": "teacher", "kind": "int8"} for n in range(9)
    }
    plan = planned(text_file, tmp_path, **sizes)
    (row,) = [row.name for row in plan.rows if "size-0" in row.name]
    assert row.endswith(" more") and len(row) < 60


def test_what_several_stages_assume_is_said_once(text_file, tmp_path):
    unlike = {"stage": "select", "among": ["teacher", "student"]}
    more = {f"on-{n}": on("pick") for n in range(9)}
    plan = planned(text_file, tmp_path, pick=unlike, **more)
    (line,) = [line for line in plan.remarks() if "the model it starts from" in line]
    assert line.startswith("assumed: on-0, on-1, on-2 and 6 more: the model it starts from is")
