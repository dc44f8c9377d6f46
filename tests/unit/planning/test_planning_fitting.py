import pytest
import yaml

import flyweight as fw
from flyweight.errors import RequestError


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
    with pytest.raises(RequestError, match=r"budget\.memory: 131 MB"):
        tiny.words()
    enough = fault.partition("the nearest limit that fits: budget.memory=")[2].partition(",")[0]
    assert fw.plan(str(recipe), *one_row, memory=enough).words()


def test_no_training_holds_to_less_than_its_libraries(recipe, flyweight):
    status, out, _ = flyweight("plan", recipe, "--memory", "1MB")
    assert status == 1 and "every training here takes more than 130 MB" in " ".join(out.split())
    (fault,) = fw.plan(str(recipe), memory="1MB").faults
    nearest = fault.partition("the nearest limit that fits: budget.memory=")[2].partition(",")[0]
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
