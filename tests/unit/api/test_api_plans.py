import pytest
from toy_recipe import toy

import flyweight as fw
from flyweight import api
from flyweight.api import plans
from flyweight.errors import RequestError

QUIET = fw.Session(quiet=True, threads=1)


@pytest.fixture
def recipe(text_file):
    """A recipe whose second training has a teacher in four bits, and whose third has adapters."""
    raw = toy(text_file)
    train = {"steps": 4, "batch": 8, "precision": "fp32", "optimizer": "adamw"}
    raw["stages"] = {
        "large": {"stage": "pretrain", "model": {"dim": 256, "layers": 4}, "train": train},
        "packed": {"stage": "quantize", "input": "large", "kind": "nf4"},
        "small": {"stage": "distill", "teacher": "packed", "train": train},
        "tuned": {"stage": "finetune", "input": "packed", "method": "lora", "train": train},
    }
    raw["budget"] = {"memory": "2GB"}
    raw["report"] = {"compare": ["small"]}
    return raw


def test_a_check_measures_every_training_without_making_any(recipe, tmp_path):
    session = fw.Session(runs=tmp_path / "runs", quiet=True, threads=1)
    checked = fw.plan(recipe, check=True, session=session)
    assert not list((tmp_path / "runs").glob("pretrain-*"))
    assert [stage.name for stage in checked.stages] == ["large", "small", "tuned"]
    stages = checked.json()["stages"]
    for stage in checked.stages:
        assert stage.measured == pytest.approx(stage.memory.total, abs=64e6)
        found = stages[stage.name]["measured"]
        assert found["peak_bytes"] == stage.measured
        assert found["error"] == pytest.approx(stage.memory.total / stage.measured - 1)
    assert "measured" in str(checked) and " %" in str(checked)


def test_one_stage_is_measured_in_bytes(recipe):
    measured = fw.measure_memory(recipe, "tuned", session=QUIET)
    assert isinstance(measured, int) and 5e7 < measured < 4e8
    with pytest.raises(RequestError, match=r"no stage 'none'; training stages: large, small"):
        fw.measure_memory(recipe, "none", session=QUIET)


def test_what_trains_nothing_cannot_be_checked():
    with pytest.raises(RequestError, match="--check: it measures the training stages"):
        fw.plan("gpt2", check=True, session=QUIET)


def test_a_check_is_refused_where_memory_is_not_free(recipe, monkeypatch):
    monkeypatch.setattr(plans, "free_bytes", lambda device: 10**8)
    with pytest.raises(RequestError, match=r"100 MB of memory are free, and the plan needs more"):
        fw.plan(recipe, check=True, session=QUIET)


def test_a_recipe_is_planned_without_stages(recipe):
    planned = fw.plan(recipe, without=["tuned"], session=QUIET)
    assert [stage.name for stage in planned.stages] == ["large", "small"]
    for target in ({"name": "a", "models": {}}, "gpt2"):
        with pytest.raises(RequestError, match=r"without: .* has no stages to leave out"):
            fw.plan(target, without=["tuned"], session=QUIET)
    with pytest.raises(RequestError, match="checked already"):
        fw.plan(fw.load(recipe), without=["tuned"], session=QUIET)


def test_a_shape_that_a_recipe_only_measures_is_no_model_that_it_trains():
    with pytest.raises(RequestError, match="this is a single model"):
        fw.plan("gpt2", memory="6GB", session=QUIET)
    raw = api.with_words("distilqwen3", [])["stages"]
    others = [name for name in raw if name != "poster-pretrained"]
    poster = fw.plan("distilqwen3-poster", memory="20GB", without=others, session=QUIET)
    assert [stage.name for stage in poster.stages] == ["poster-pretrained"]
