import pytest
import yaml

import flyweight as fw
from flyweight.errors import FlyweightError


@pytest.fixture
def recipe(tmp_path, text_file):
    """A recipe whose training needs some 190 MB, most of it activations."""
    stage = {
        "stage": "pretrain",
        "model": {"dim": 64, "layers": 4},
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 128},
        "train": {"steps": 4, "batch": 8},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "fitting", "stages": {"one": stage}}))
    return file


def test_free_changes_come_first_and_those_with_a_price_are_proposed(recipe):
    whole = fw.plan(str(recipe), memory="1GB")
    assert not whole.faults and whole.json()["stages"]["one"]["changes"] == []
    needed = whole.stages[0].memory.total
    small = fw.plan(str(recipe), memory=f"{round(0.9 * needed)}B")
    (first,) = small.json()["stages"]["one"]["changes"]
    assert first["field"] == "train.accumulate" and first["to"] in ("2", "4") and first["free"]
    (word,) = small.words()
    assert word in ("stages.one.train.accumulate=2", "stages.one.train.accumulate=4")
    assert f"{word} makes it" in small.faults[0]
    assert not fw.plan(str(recipe), word, memory=f"{round(0.9 * needed)}B").faults
    one_row = [f"stages.one.{word}" for word in ("train.batch=1", "model.layers=12")]
    tiny = fw.plan(str(recipe), *one_row, memory="131MB")
    changes = tiny.json()["stages"]["one"]["changes"]
    free = [change["field"] for change in changes if change["free"]]
    assert free[0] == "train.memory.recompute" and "train.memory.states" in free
    assert all(change["saves"] > 0 for change in changes)
    assert not changes[-1]["free"]
    recomputed = next(each for each in changes if each["field"] == "train.memory.recompute")
    assert recomputed["slower"] > 1.1
    fault = tiny.faults[0]
    assert "the least that leaves quality as it is" in fault
    assert "at some cost (stages.one.data.context=64)" in fault
    with pytest.raises(FlyweightError, match=r"budget\.memory: 131 MB"):
        tiny.words()
    enough = fault.partition("the nearest limit that fits: budget.memory=")[2].split()[0].strip(",")
    assert fw.plan(str(recipe), *one_row, memory=enough).words()


def test_no_training_holds_to_less_than_its_libraries(recipe, flyweight):
    status, out, _ = flyweight("plan", recipe, "--memory", "1MB")
    assert status == 1 and "every training here takes more than 130 MB" in " ".join(out.split())
    (fault,) = fw.plan(str(recipe), memory="1MB").faults
    nearest = (
        fault.partition("the nearest limit that fits: budget.memory=")[2].split()[0].strip(",")
    )
    assert fw.plan(str(recipe), memory=nearest).words()
    status, _, err = flyweight("plan", recipe, "--memory", "1GB", "--fit", "--check")
    assert status == 2 and "--fit" in err and "second call" in err


def test_the_changed_recipe_fits(recipe, flyweight, tmp_path):
    needed = fw.plan(str(recipe), memory="1GB").stages[0].memory.total
    limit = f"{round(0.9 * needed)}B"
    status, out, err = flyweight("plan", recipe, "--memory", limit, "--fit")
    assert status == 0, err
    changed = tmp_path / "changed.yaml"
    changed.write_text(out)
    assert yaml.safe_load(out)["stages"]["one"]["train"]["accumulate"] in (2, 4)
    assert not fw.plan(str(changed)).faults
    status, _, err = flyweight("plan", "gpt2", "--fit")
    assert status != 0 and "--fit: gpt2 is not a recipe" in err


def test_weights_in_bfloat16_are_proposed_with_the_precision_that_they_need(recipe):
    words = [f"stages.one.{word}" for word in ("train.batch=1", "model.dim=768")]
    exact = fw.plan(str(recipe), *words, "train.precision=fp32", memory="300MB")
    change = next(
        each
        for each in exact.json()["stages"]["one"]["changes"]
        if each["field"] == "train.memory.weights"
    )
    assert change["needs"] == {"train.precision": "bf16"} and not change["free"]
    both = "stages.one.train.memory.weights=bf16 stages.one.train.precision=bf16"
    assert both in exact.faults[0]
    least = exact.fittings["one"].least.total
    priced = [word for word in exact.faults[0].split() if word.startswith(("stages", "(stages"))]
    free = exact.fittings["one"].words("one")
    changed = [*words, *free, *(word.strip("(),") for word in priced)]
    assert fw.plan(str(recipe), *changed, memory="1GB").stages[0].memory.total == least


def test_what_saves_nothing_is_not_proposed_and_why_is_told(recipe, flyweight):
    words = [f"stages.one.{word}" for word in ("train.batch=1", "model.layers=12")]
    tiny = fw.plan(str(recipe), *words, memory="131MB")
    assert tiny.fittings["one"].idle == (
        "train.memory.weights=bf16, which would save nothing here",
    )
    assert any("not proposed: train.memory.weights=bf16" in line for line in tiny.remarks())


def test_the_answer_no_has_one_exit_status(recipe, flyweight):
    for fit in ([], ["--fit"]):
        status, out, err = flyweight("plan", recipe, "--memory", "1MB", *fit)
        assert status == 1 and "every training here takes more" in " ".join((out + err).split())
    text = yaml.safe_load(recipe.read_text())["stages"]["one"]["data"]["corpus"]
    status, _, err = flyweight("plan", text, "--memory", "1MB")
    assert status == 1 and "every training here takes more" in err
    status, _, err = flyweight("train", text, "budget.memory=1MB")
    assert status == 2 and "every training here takes more" in err
    status, _, err = flyweight("run", recipe, "budget.memory=1MB")
    assert status == 2 and "does not fit its budget" in err


def test_what_was_made_of_a_stage_is_fitted_by_that_stage(recipe, flyweight):
    raw = yaml.safe_load(recipe.read_text())
    one = {**raw["stages"]["one"], "seed": [0, 1]}
    recipe.write_text(yaml.safe_dump({**raw, "stages": {"one": one}}))
    needed = fw.plan(str(recipe)).stages[0].memory.total
    limit = f"{round(0.9 * needed)}B"
    assert all(
        word.startswith("stages.one-") for word in fw.plan(str(recipe), memory=limit).words()
    )
    status, out, err = flyweight("plan", recipe, "--memory", limit, "--fit")
    assert status == 0, err
    fitted = yaml.safe_load(out)
    assert list(fitted["stages"]) == ["one"]
    assert fitted["stages"]["one"]["train"]["accumulate"] in (2, 4)
    assert not fw.plan(fitted, memory=limit).faults
