"""A stage that trains on from another stage's model is planned with that model."""

import pytest
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load


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
