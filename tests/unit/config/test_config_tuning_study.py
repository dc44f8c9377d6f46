"""The fields of a study of fine-tuning, and what it refuses before any work."""

import json
import re

import pytest

from flyweight.config import tuning_study
from flyweight.errors import RequestError


def raw(**changes):
    """Return the raw fields of a small study that is right."""
    return {
        "name": "which",
        "bases": {
            "plain": {
                "stage": "pretrain",
                "model": {"dim": 32, "layers": 1},
                "data": {"corpus": "tiny-shakespeare"},
            },
            "packed": {"stage": "quantize", "input": "plain", "kind": "nf4"},
            "other": "runs/other:model",
        },
        "methods": {
            "full": {"method": "full", "bases": ["plain", "other"]},
            "lora": {"method": {"kind": "lora", "r": 4}},
            "scratch": {"method": "full", "scratch": True, "bases": "plain"},
        },
        "tasks": {"squad": {"task": "squad"}, "mine": {"task": "rows.jsonl"}},
        "train": {"epochs": 1},
        "seeds": [0, 1],
        **changes,
    }


def test_conditions_are_every_base_method_and_task_with_scratch_last():
    study = tuning_study.parse(raw(), "which")
    conditions = list(study.conditions())
    assert study.bases["other"].model == "runs/other:model"
    assert len(conditions) == 2 * (2 + 3 + 1)
    assert study.run_count == 2 * len(conditions)
    assert [method for _, method, _ in conditions[-2:]] == ["scratch", "scratch"]
    assert ("packed", "full", "squad") not in conditions
    assert study.finetune("plain", "scratch", "mine").start == "random"


def test_only_leaves_other_methods_out():
    study = tuning_study.parse(raw(only="lo*"), "which")
    assert {method for _, method, _ in study.conditions()} == {"lora"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds: there are none; name at least three"),
        ({"train": {"keep": "last"}}, "train: names 0 limits; give exactly one of epochs"),
        ({"train": {"epochs": 1, "steps": 3, "keep": "last"}}, "train: names 2 limits"),
        ({"methods": {"full": {"bases": "plian"}}}, "there is no base 'plian' (did you mean plain"),
        ({"methods": {"x": {"scratch": True}}}, "needs a method full on plain"),
        (
            {"methods": {"full": {"bases": "plain"}, "s": {"scratch": True, "bases": "other"}}},
            "methods.s.scratch: spends what the base and a full fine-tuning have cost, so the "
            "study needs a method full on other",
        ),
        ({"only": "scratch"}, "the study needs a method full on plain"),
        (
            {"methods": {"full": {"train": {"steps": 4}}}},
            "methods.full.train.steps: train gives the limit, the same for all methods",
        ),
        ({"only": "nothing*"}, "only: no method is left"),
        ({"bases": {"a": {"model": "m", "made": None}, "b": {}}}, "bases.b: give either model"),
        (
            {"bases": {"q": {"stage": "quantize", "input": "p", "kind": "nf4"}, "p": "model"}},
            "bases.q: is made from p; name p before it",
        ),
        (
            {"bases": {"a": {"stage": "bench", "input": "m"}}},
            "bases.a: a stage of kind bench makes no model",
        ),
    ],
)
def test_a_contradiction_is_named(changes, message):
    with pytest.raises(RequestError) as caught:
        tuning_study.parse(raw(**changes), "which")
    assert message in str(caught.value)


def test_the_json_schema_of_studies_has_both_forms_and_every_reference():
    schema = tuning_study.json_schema_of_studies()
    assert schema["anyOf"] == [{"$ref": "#/$defs/Study"}, {"$ref": "#/$defs/TuningStudy"}]
    definitions = schema["$defs"]
    assert "models" in definitions["Study"]["properties"]
    assert {"bases", "methods", "tasks"} <= definitions["TuningStudy"]["properties"].keys()
    text = json.dumps(schema)
    named = set(re.findall(r'"#/\$defs/(\w+)"', text))
    assert named <= definitions.keys()
    word, _, stage = definitions["StudyBase"]["anyOf"]
    assert word == {"type": "string"}
    assert "#/$defs/Quantize" in json.dumps(stage)
