"""The recipe of DistilQwen3: planned at full size, nothing of it allocated and nothing fetched."""

import pytest
import yaml

from flyweight import api
from flyweight.core.machine import resident_bytes

DISTILLED = ("qwen3-8b", "poster-pretrained", "poster")


@pytest.fixture
def words() -> list[str]:
    """Return the words that leave all stages out but the poster's student and its teacher."""
    others = [name for name in api.with_words("distilqwen3", [])["stages"] if name not in DISTILLED]
    return [word for name in others for word in ("--without", name)]


def test_the_poster_s_student_and_its_teacher_are_planned_within_20_gb(flyweight, words):
    before = resident_bytes()
    status, out, err = flyweight("plan", "distilqwen3-poster", *words, "--memory", "20GB", "--json")
    assert status == 0, err
    poster = yaml.safe_load(out)["stages"]["poster"]
    assert poster["method"] == "dry-run"
    assert poster["parameters"]["unique"] == 497_501_376
    assert 4.7e9 < poster["memory"]["teacher"] < 5.0e9
    assert 12e9 < poster["memory"]["total"] < 20e9
    assert resident_bytes() - before < 1e9


def test_without_what_saves_memory_it_does_not_fit_and_is_told_what_would(flyweight, words):
    words = [*words, "train.memory.recompute=none"]
    status, out, err = flyweight("plan", "distilqwen3", *words, "--json")
    assert status == 1, err
    poster = yaml.safe_load(out)["stages"]["poster"]
    assert poster["memory"]["total"] > 20e9
    assert poster["changes"][0]["field"] == "train.accumulate"
    status, out, err = flyweight("plan", "distilqwen3-poster", *words, "--memory", "20GB", "--fit")
    assert status == 0, err
    assert yaml.safe_load(out)["stages"]["poster"]["train"]["accumulate"] in (16, 32)


@pytest.mark.parametrize(
    "word", ["text=redpajama", "text=c4", "text=fineweb-edu", "protocol=published"]
)
def test_every_version_reads_streams_and_names_what_it_changes(word):
    recipe = api.load("distilqwen3", word)
    source = recipe.stages["poster-pretrained"].data.stream.source
    texts = {"text=c4": "c4:en", "text=fineweb-edu": "fineweb-edu"}
    assert texts.get(word, "RedPajama") in source
    assert recipe.stages["poster"].data.stream.source == "hf:allenai/c4:en"
    assert recipe.name == "distilqwen3" or word.partition("=")[2] in recipe.name
    published = word == "protocol=published"
    assert recipe.stages["poster"].objective.weight == (0.8 if published else 1.0)


def test_experiments_are_by_three_seeds_and_their_controls_are_equal():
    from flyweight.spec import flops

    recipe = api.load("distilqwen3", "experiments=seeds")
    assert recipe.name == "distilqwen3-seeds"
    models = {
        name: recipe.stages[f"{name}-2"].model.resolved(context=512)
        for name in ("bottleneck", "none", "none-parameters", "none-flops", "unshared", "once")
    }
    counts = {name: flops.parameters(model) for name, model in models.items()}
    assert counts["none-parameters"] == counts["bottleneck"]
    assert counts["bottleneck"].unique == 497_501_376
    costs = {name: flops.forward_flops(model, 512) for name, model in models.items()}
    assert costs["none-flops"] == pytest.approx(costs["bottleneck"], rel=0.01)
