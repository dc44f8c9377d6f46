import pytest

from flyweight.config import load
from flyweight.config.schema import (
    SAME_AS,
    STAGE_CONFIGS,
    Evaluate,
    Report,
    Select,
    TrainingStage,
    stage_class,
)
from flyweight.config.stage import EVERY_QUANTITY, StageConfig
from flyweight.errors import RequestError
from flyweight.planning.stages import STAGES, stage_of
from flyweight.store.stage import Outline, PlannedInputs, identity_config

SHIPPED = sorted(STAGES)


def test_every_stage_has_a_config_and_work():
    assert set(STAGE_CONFIGS) == set(STAGES)
    for name, config in STAGE_CONFIGS.items():
        assert config.stage_name() == name
        assert stage_of(name).version >= 1


@pytest.mark.parametrize("name", SHIPPED)
def test_traits_name_fields_that_are_there(name):
    config = STAGE_CONFIGS[name]
    fields = set(config.model_fields)
    assert set(config.references) <= fields
    assert set(config.defaults) <= fields
    assert set(config.spends) <= set(EVERY_QUANTITY)
    assert config.measures in (None, "input", "corpus")
    assert not (config.measures and config.makes_model)
    assert "input" in config.references or not config.compresses


def test_a_stage_that_trains_names_what_it_is_tied_to():
    stage = load.check_stage(
        {
            "stage": "distill",
            "teacher": "t",
            "model": {"dim": 8, "layers": 1},
            "data": {"corpus": "x"},
            "train": {"same_as": {"stage": "other", "of": "flops"}},
        }
    )
    assert isinstance(stage, TrainingStage)
    assert stage.dependencies() == {"teacher": "t", SAME_AS: "other"}


def test_several_references_are_named_by_place():
    stage = Select(stage="select", among=("a", "b"))
    assert stage.dependencies() == {"among.0": "a", "among.1": "b"}
    assert identity_config(stage) == {}


def test_an_unknown_name_has_no_stage():
    for name in ("corpus", "examples", "nothing", "", None, 3):
        assert stage_class(name) is None


def test_a_stage_without_a_plan_of_its_own_keeps_the_model_of_its_input():
    model = load.model_config({"dim": 8, "layers": 1}, "here")

    class Plain(type(STAGES["sample"])):
        """A stage that plans nothing itself."""

    planned = Plain().plan(None, PlannedInputs({"input": model}))
    assert planned == Outline(model)


def test_select_plans_a_model_where_all_candidates_are_alike():
    model = load.model_config({"dim": 8, "layers": 1}, "here")
    other = load.model_config({"dim": 16, "layers": 1}, "here")
    select = Select(stage="select", among=("a", "b"))
    plan = STAGES["select"].plan
    assert plan(select, PlannedInputs({"among.0": model, "among.1": model})).model == model
    assert plan(select, PlannedInputs({"among.0": model, "among.1": other})).model is None
    assert plan(select, PlannedInputs({"among.0": model})).model is None


def test_metrics_that_nobody_asked_for_leave_ids_as_they_were():
    plain = Evaluate(stage="evaluate", input="m")
    assert "metrics" not in plain.model_dump()
    assert "metrics" not in Report().model_dump()
    assert "by" not in Select(stage="select", among=("a", "b")).model_dump()
    asked = Evaluate(stage="evaluate", input="m", metrics=("accuracy", "accuracy"))
    assert identity_config(asked)["metrics"] == ["accuracy"]


@pytest.mark.parametrize(
    ("metrics", "fault"),
    [
        (["nll"], "nll is always measured; leave it out"),
        (["acuracy"], r"unknown metric 'acuracy' \(did you mean accuracy\?\)"),
    ],
)
def test_metrics_that_cannot_be_asked_for_are_refused(metrics, fault):
    with pytest.raises(RequestError, match=fault):
        load.check_stage({"stage": "evaluate", "input": "m", "metrics": metrics})


def test_select_by_a_metric_needs_no_validation_while_training():
    raw = {
        "name": "r",
        "data": {"corpus": "x"},
        "model": {"dim": 8, "layers": 1},
        "train": {"steps": 1, "validations": 0},
        "stages": {
            "a": {"stage": "pretrain"},
            "b": {"stage": "pretrain"},
            "best": {"stage": "select", "among": ["a", "b"], "by": "accuracy"},
        },
    }
    assert load.recipe(raw).stages["best"].text_of_input == "required"
    raw["stages"]["best"]["by"] = "nll"
    with pytest.raises(RequestError, match="a trains with validations: 0"):
        load.recipe(raw)
    raw["stages"]["best"]["by"] = "speed"
    with pytest.raises(RequestError, match="unknown metric 'speed'"):
        load.recipe(raw)


def test_a_base_without_a_name_is_no_stage():
    assert StageConfig.stage_name() == ""


def test_lm_eval_is_a_stage_of_recipes_and_of_the_schema_and_keeps_older_requests():
    raw = {"name": "r", "data": {"corpus": "x"}, "model": {"dim": 8, "layers": 1}}
    raw["train"] = {"steps": 1}
    raw["stages"] = {"a": {"stage": "pretrain"}}
    assert "lm_eval" not in load.recipe(raw).model_dump(mode="json")["report"]
    raw["stages"]["b"] = {"stage": "lm_eval", "input": "a", "tasks": ["x", " y ", "x"]}
    raw["report"] = {"compare": ["a"], "lm_eval": {"tasks": ["x"], "task_path": "here"}}
    recipe = load.recipe(raw)
    assert recipe.stages["b"].tasks == ("x", "y")
    asked = recipe.report.lm_eval.stage("a")
    assert identity_config(asked)["task_path"] is None
    assert "LmEval" in load.json_schema()["$defs"]
    raw["report"]["lm_eval"] = {"tasks": ["x"], "limits": 3}
    with pytest.raises(RequestError, match="limits"):
        load.recipe(raw)
