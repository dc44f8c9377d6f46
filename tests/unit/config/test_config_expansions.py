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


def test_a_control_is_rounded_as_its_student_is():
    fields = {"round": "int4", "round_layers": {"blocks.0.*": "int8"}}
    made = recipe(controls=["same_tokens"], **fields)
    student, control = made.stages["student"], made.stages["student-same-tokens"]
    assert student.round is not None and student.round_layers
    assert (control.round, control.round_layers) == (student.round, student.round_layers)


def test_a_control_is_listed_once():
    with pytest.raises(RequestError, match=r"student\.controls: same_tokens is listed twice"):
        recipe(controls=["same_tokens", "same_tokens"])


def test_words_cannot_be_aligned_with_other_tokens():
    words = {**CORPUS, "tokenizer": "word"}
    with pytest.raises(RequestError, match=r"student\.across: this text is cut into words"):
        recipe(across="tokenizers", data=words)
    with pytest.raises(RequestError, match=r"student\.across: teacher is cut into words"):
        load.recipe(
            {
                "name": "words",
                "data": words,
                "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
                "train": {"steps": 7, "batch": 4},
                "stages": {
                    "teacher": {"stage": "pretrain"},
                    "student": {
                        "stage": "distill",
                        "teacher": "teacher",
                        "across": "tokenizers",
                        "data": {"tokenizer": "byte"},
                    },
                },
            }
        )


def test_an_option_of_another_divergence_is_refused():
    with pytest.raises(RequestError, match="beta: belongs to divergence: jsd"):
        recipe(objective={"beta": 0.3})
    made = recipe(objective={"beta": 0.3, "divergence": "jsd"}).stages["student"]
    assert made.objective.beta == 0.3


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("teacher", r"start: expected random, or {from: teacher}; found 'teacher'"),
        ({"from": "nobody"}, r"start\.from: 'nobody' is not known; use teacher, or start: random"),
        ({"layer": [0]}, r"start\.layer: unknown name \(did you mean layers\?\)"),
        ({"layers": []}, r"start\.layers: \[\] is not 'even'; otherwise needs at least 1 entry"),
        ({"layers": "odd"}, r"start\.layers: 'odd' is not 'even'; otherwise expected a list"),
        ({"layers": [0, -1]}, r"start\.layers\.1: has to be at least 0, and is -1"),
    ],
)
def test_a_wrong_start_is_told_once(start, said):
    with pytest.raises(RequestError, match=said) as refused:
        recipe(start=start)
    assert str(refused.value).count("stages.student") == 1


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
        ({"told": {"k": 8, "rows": 3}}, "stages.student.told.rows: unknown name"),
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


MEASURED = {
    "name": "measured",
    "data": CORPUS,
    "train": {"steps": 3},
    "stages": {
        "model": {"stage": "pretrain", "model": {"dim": 16, "layers": 1}},
        "other": {"stage": "quantize", "input": "model", "kind": "int8"},
        "speed": {
            "stage": "bench",
            "input": ["model", "other"],
            "precision": ["fp32", "bf16"],
            "batch": [1, 16],
            "prompt": 8,
        },
    },
}


def changed(name, **fields):
    stages = {**MEASURED["stages"], name: {**MEASURED["stages"].get(name, {}), **fields}}
    return {**MEASURED, "stages": stages}


def test_a_measurement_of_several_is_a_stage_for_each():
    stages = load.recipe(MEASURED).stages
    names = [
        f"speed-{m}-{p}-{b}" for m in ("model", "other") for p in ("fp32", "bf16") for b in (1, 16)
    ]
    assert list(stages) == ["model", "other", *names]
    one = stages["speed-other-bf16-16"]
    assert (one.input, one.precision, one.batch, one.prompt) == ("other", "bf16", 16, 8)


def test_a_split_with_a_sign_has_a_name_all_the_same():
    raw = changed("score", stage="evaluate", input="model", split=["validation", "validation+test"])
    names = ["score-validation", "score-validation-test"]
    assert [name for name in load.recipe(raw).stages if name.startswith("score")] == names


def test_lists_that_cannot_be_measured_are_refused():
    with pytest.raises(RequestError, match=r"speed\.batch: the list is empty"):
        load.recipe(changed("speed", batch=[]))
    with pytest.raises(RequestError, match="speed-model-fp32-1 is there already"):
        load.recipe(changed("speed-model-fp32-1", stage="evaluate", input="model"))
    with pytest.raises(RequestError, match="batch"):
        load.recipe(changed("speed", batch=[1, "many"]))
    with pytest.raises(RequestError, match="kind"):
        load.recipe(changed("other", kind=["int8", "nf4"]))


def test_a_measured_model_that_is_left_out_leaves_its_list():
    stages = load.recipe(MEASURED, without=["other", "speed-model-bf16-1"]).stages
    assert list(stages) == [
        "model",
        "speed-model-fp32-1",
        "speed-model-fp32-16",
        "speed-model-bf16-16",
    ]


def test_a_control_is_left_out_alone_or_with_its_student():
    raw = {
        "name": "words",
        "data": CORPUS,
        "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
        "train": {"steps": 7, "batch": 4},
        "stages": {
            "teacher": {"stage": "pretrain"},
            "student": {"stage": "distill", "teacher": "teacher", "controls": ["same_tokens"]},
        },
    }
    assert list(load.recipe(raw, without=["student-same-tokens"]).stages) == ["teacher", "student"]
    assert list(load.recipe(raw, without=["student"]).stages) == ["teacher"]
    with pytest.raises(RequestError, match="--without nobody"):
        load.recipe(raw, without=["nobody"])


def test_what_a_stage_left_out_had_taught_is_taught_by_its_input():
    raw = changed("adapted", stage="finetune", input="model", method="full")
    raw["stages"]["student"] = {
        "stage": "distill",
        "teacher": "adapted",
        "model": {"dim": 8, "layers": 1},
    }
    assert load.recipe(raw, without=["adapted"]).stages["student"].teacher == "model"


def test_sources_are_names_for_models():
    raw = changed("tuned", stage="finetune", input="base", method="full")
    raw["sources"] = {"base": "hf:a/b"}
    assert load.recipe(raw).stages["tuned"].input == "hf:a/b"
    other = load.recipe(load.override(raw, ["sources.base=models/c"]))
    assert other.stages["tuned"].input == "models/c"


@pytest.mark.parametrize("sources", [3, ["a"], {"base": 3}, {3: "hf:a/b"}, {"model": "hf:a/b"}])
def test_sources_that_are_none_are_refused(sources):
    with pytest.raises(RequestError, match="sources"):
        load.recipe({**MEASURED, "sources": sources})


def tied(of="total_flops"):
    raw = changed("tuned", stage="finetune", input="model", method="full")
    alone = {"stage": "pretrain", "model": {"dim": 16, "layers": 1}}
    raw["stages"]["alone"] = {**alone, "train": {"same_as": {"stage": "tuned", "of": of}}}
    return raw


def test_a_limit_of_all_that_was_spent_is_that_up_to_the_input_of_a_stage_left_out():
    stages = load.recipe(tied(), without=["tuned"]).stages
    assert stages["alone"].train.same_as == schema.SameAs(stage="model", of="total_flops")
    with pytest.raises(RequestError, match="same_as takes its limit from it"):
        load.recipe(tied("tokens"), without=["tuned"])


def test_a_student_goes_with_its_controls_from_every_list():
    raw = {
        "name": "words",
        "data": CORPUS,
        "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
        "train": {"steps": 7, "batch": 4},
        "stages": {
            "teacher": {"stage": "pretrain"},
            "student": {
                "stage": "distill",
                "teacher": "teacher",
                "controls": ["same_tokens"],
                "told": {"k": 4},
            },
            "speed": {"stage": "bench", "input": ["teacher", "student", "student-same-tokens"]},
        },
        "report": {"compare": ["teacher", "student", "student-same-tokens"]},
    }
    left = load.recipe(raw, without=["student"])
    assert list(left.stages) == ["teacher", "speed-teacher"]
    assert left.report.compare == ("teacher",)


# --- what goes, wherever it was written ---

WORDS = {
    "name": "words",
    "data": CORPUS,
    "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
    "train": {"steps": 4, "batch": 2},
    "stages": {
        "base": {"stage": "pretrain", "train": {"snapshots": [0.5]}},
        "student": {
            "stage": "distill",
            "teacher": ["base", "base@0.5"],
            "told": {"k": 4},
            "controls": ["same_tokens"],
        },
        "small": {"stage": "quantize", "input": "student", "kind": "int8"},
        "speed": {
            "stage": "bench",
            "input": ["base", "student", "student-same-tokens", "small"],
            "precision": ["fp32", "bf16"],
        },
    },
}


@pytest.mark.parametrize(
    ("without", "left"),
    [
        (["speed"], {"base", "base-at-50", "student", "student-same-tokens", "small"}),
        (["student", "small"], {"base"}),  # in either order: both go
        (["small", "student"], {"base"}),
        (["student-same-tokens"], {"base", "base-at-50", "student", "small"}),
        (["base-at-50"], {"base", "student", "student-same-tokens", "small"}),
    ],
)
def test_stages_go_from_lists_and_in_any_order(without, left):
    made = load.recipe(WORDS, without=without).stages
    assert {name for name in made if not name.startswith(("speed-", "student-told"))} == left
    measured = {stage.input for stage in made.values() if isinstance(stage, schema.Bench)}
    assert measured == (set() if without == ["speed"] else left - {"base-at-50"})


def test_a_stage_that_needs_a_snapshot_of_what_goes_says_so():
    stages = WORDS["stages"] | {"late": {"stage": "merge", "input": "base@0.5"}}
    with pytest.raises(RequestError, match=r"late\.input needs its snapshot base@0\.5; leave late"):
        load.recipe({**WORDS, "stages": stages}, without=["base", "student"])


def test_teachers_are_one_name_or_several_others():
    assert recipe(teacher=["teacher"]).stages["student"].teacher == "teacher"
    for teacher, said in (
        ([], "expected the name of a teacher, or a list of several; found"),
        (["teacher", 3], "expected .* found .'teacher', 3."),
        (["teacher", "teacher"], "teacher is named twice"),
    ):
        with pytest.raises(RequestError, match=f"student.teacher: {said}") as error:
            recipe(teacher=teacher)
        assert len(str(error.value).splitlines()) == 2


def test_a_record_does_not_contradict_the_objective():
    with pytest.raises(RequestError, match=r"told.rest: is 'bucket', and objective.rest is 'reno"):
        recipe(told={"rest": "bucket"}, objective={"rest": "renormalise"})
    with pytest.raises(RequestError, match=r"told.kk: unknown name \(did you mean k\?\)"):
        recipe(told={"kk": 1})


def test_models_of_one_name_are_not_measured_as_one():
    speed = {"stage": "bench", "input": ["hf:a/b.c", "hf:a/b-c"]}
    with pytest.raises(RequestError, match="would both be called speed-hf-a-b-c"):
        load.recipe({**WORDS, "stages": {**WORDS["stages"], "speed": speed}})


def test_a_source_has_snapshots_and_words_for_one_that_nobody_takes_are_refused():
    raw = {**WORDS, "sources": {"first": "run:base"}}
    raw["stages"] = {**WORDS["stages"], "late": {"stage": "merge", "input": "first@0.5"}}
    changed = load.override(raw, ["sources.first=old:base"])
    assert load.recipe(changed).stages["late"].input == "old:base@0.5"
    with pytest.raises(RequestError, match=r"sources.frist=x: .* \(did you mean first\?\)"):
        load.override(raw, ["sources.frist=x"])


# --- several seeds, several tasks ---


def test_a_training_by_several_seeds_is_a_stage_for_each():
    model = {"dim": 16, "layers": 1, "attention": {"heads": 2}}
    base = {"stage": "pretrain", "data": CORPUS, "model": model, "train": {"steps": 4}}
    raw = {"name": "seeds", "stages": {"base": {**base, "seed": [0, 3]}}}
    made = load.recipe(raw).stages
    assert {name: stage.seed for name, stage in made.items()} == {"base-0": 0, "base-3": 3}
    plain = load.recipe({"name": "x", "stages": {"base": base}}).stages["base"]
    assert "seed" not in plain.model_dump()
    with pytest.raises(RequestError, match=r"stages\.base-x\.seed"):
        load.recipe({"name": "seeds", "stages": {"base": {**base, "seed": ["x"]}}})


def test_a_seed_is_listed_once_and_its_stage_has_its_number():
    base = {"stage": "pretrain", "model": {"dim": 16, "layers": 1}, "data": {"corpus": "ptb"}}
    raw = {"name": "seeds", "stages": {"base": {**base, "train": {"steps": 4}, "seed": [0, 3, 0]}}}
    with pytest.raises(RequestError, match=r"stages\.base\.seed: 0 is listed twice"):
        load.recipe(raw)
    raw["stages"]["base"]["seed"] = [0, None]
    with pytest.raises(RequestError, match=r"stages\.base\.seed: a list cannot hold null"):
        load.recipe(raw)
    raw["stages"]["base"]["seed"] = [0, 3]
    raw["report"] = {"compare": ["base"]}
    with pytest.raises(RequestError, match="no stage 'base', but base-0, base-3; name one of them"):
        load.recipe(raw)


def test_a_training_by_several_seeds_goes_with_what_measures_it():
    base = {"stage": "pretrain", "data": CORPUS, "train": {"steps": 4}, "seed": [0, 1]}
    stages = {
        "narrow": {**base, "model": {"dim": 16, "layers": 1}},
        "wide": {**base, "model": {"dim": 32, "layers": 1}},
        "test": {"stage": "evaluate", "input": ["narrow-0", "narrow-1", "wide-0", "wide-1"]},
    }
    raw = {"name": "seeds", "stages": stages, "report": {"compare": ["narrow-0", "wide-0"]}}
    made = load.recipe(raw, without=["narrow"])
    assert set(made.stages) == {"wide-0", "wide-1", "test-wide-0", "test-wide-1"}
    assert made.report.compare == ("wide-0",)


def test_words_that_stand_for_stages_take_one_seed():
    for words in ({"controls": ["same_tokens"]}, {"told": {"k": 4}}):
        with pytest.raises(RequestError, match=r"student\.seed: .* give it one seed"):
            recipe(seed=[0, 1], **words)
    made = recipe(seed=1, controls=["same_tokens"]).stages
    assert made["student-same-tokens"].seed == 1
    with pytest.raises(RequestError, match="a record is of the recipe's seed"):
        recipe(seed=1, told={"k": 4})


def test_several_models_answer_several_tasks():
    score = {"stage": "score", "input": ["hf:a/b", "hf:a/c"], "task": ["squad", "dialogue"]}
    made = load.recipe({**WORDS, "stages": {**WORDS["stages"], "answers": score}}).stages
    assert "answers-hf-a-b-squad" in made and "answers-hf-a-c-dialogue" in made
