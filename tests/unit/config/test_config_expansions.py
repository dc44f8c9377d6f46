"""Words that stand for stages: controls and records of a distillation."""

import pytest

from flyweight.config import load, schema
from flyweight.errors import RequestError

CORPUS = {"corpus": "text.txt", "tokenizer": "byte", "context": 32}


def recipe(report=None, train=None, **fields):
    student = {"stage": "distill", "teacher": "teacher", "model": {"dim": 16}, **fields}
    raw = {
        "name": "words",
        "data": CORPUS,
        "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
        "train": train or {"steps": 7, "batch": 4},
        "stages": {"teacher": {"stage": "pretrain"}, "student": student},
    }
    return load.recipe({**raw, "report": report} if report else raw)


def test_controls_are_stages_beside_the_student():
    made = recipe(controls=["same_tokens", "same_compute", "shuffled"])
    assert list(made.stages) == [
        "teacher",
        "student",
        "student-same-tokens",
        "student-same-compute",
        "student-shuffled",
    ]
    student, tokens, compute, shuffled = list(made.stages.values())[1:]
    for control, quantity in ((tokens, "tokens"), (compute, "total_flops")):
        assert isinstance(control, schema.Pretrain)
        assert control.model == student.model and control.data == student.data
        assert control.train.same_as == schema.SameAs(stage="student", of=quantity)
        assert control.train.batch == 4 and control.train.steps is None
    assert shuffled == student.model_copy(
        update={"objective": student.objective.model_copy(update={"shuffled": True})}
    )


def test_a_student_that_goes_on_has_controls_that_go_on():
    made = recipe(model=None, input="teacher", controls=["same_tokens"])
    assert made.stages["student-same-tokens"].input == "teacher"


def test_controls_are_compared_where_the_student_is():
    made = recipe(report={"compare": ["teacher", "student"]}, controls=["same_tokens"])
    assert made.report.compare == ("teacher", "student", "student-same-tokens")
    assert recipe(controls=[]).stages.keys() == {"teacher", "student"}


def test_a_recipe_that_is_written_out_is_read_again():
    made = recipe(controls=["same_tokens"], told={"k": 8, "rest": "renormalise"})
    assert load.recipe(made.model_dump(mode="json", exclude_unset=True)) == made


def test_a_record_is_a_stage_before_the_student():
    objective = {"temperature": 2.0}
    made = recipe(told={"k": 8, "rest": "renormalise", "store": "fp32"}, objective=objective)
    assert list(made.stages) == ["teacher", "student-told", "student"]
    record, student = made.stages["student-told"], made.stages["student"]
    assert record.rows == 28 and record.k == 8 and record.store == "fp32"
    assert record.temperature == 2.0 and record.data == student.data
    assert student.told == "student-told" and student.objective.rest == "renormalise"
    by_tokens = recipe(told={}, train={"tokens": 1000, "batch": 4})
    assert by_tokens.stages["student-told"].rows == 32, "8 steps of 4 rows hold 1,000 tokens"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"controls": "same_tokens"}, "stages.student.controls: name them in a list"),
        ({"controls": ["same_token"]}, "'same_token' is not known.*same_tokens"),
        ({"told": {"k": 8, "rows": 3}}, "stages.student.told.rows: is not known"),
        ({"told": {"k": 8}, "train": {"time": "3s"}}, "give train.steps or train.tokens"),
        ({"told": {"k": -1}}, "k"),
        ({"controls": [["same_tokens"]]}, "is not known"),
        ({"controls": 3}, "name them in a list"),
        ({"controls": ["shuffled"], "objective": [1]}, "objective"),
        ({"controls": ["same_tokens"], "train": [1]}, "train"),
        ({"told": {}, "train": 7}, "train"),
        ({"told": {}, "data": 7}, "data"),
        ({"controls": ["same_tokens"], "report": {"compare": [[], 3]}}, "report.compare"),
    ],
)
def test_words_that_are_wrong(fields, message):
    with pytest.raises(RequestError, match=message):
        recipe(**fields)


def test_a_name_that_is_taken():
    raw = {
        "name": "words",
        "data": CORPUS,
        "train": {"steps": 2},
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "stages": {
            "student-same-tokens": {"stage": "pretrain"},
            "student": {
                "stage": "distill",
                "teacher": "student-same-tokens",
                "controls": ["same_tokens"],
            },
        },
    }
    with pytest.raises(RequestError, match="a stage student-same-tokens is there already"):
        load.recipe(raw)
