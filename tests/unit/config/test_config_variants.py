"""Versions of one recipe, of which a word chooses one."""

import pytest

from flyweight.config import load
from flyweight.config.variants import choose
from flyweight.errors import RequestError

RAW = {
    "name": "versions",
    "data": {"corpus": "text.txt", "tokenizer": "byte", "context": 32},
    "train": {"steps": 3},
    "stages": {
        "model": {"stage": "pretrain", "model": {"dim": 16, "layers": 1}},
        "small": {"stage": "quantize", "input": "model", "kind": "int8"},
    },
    "variants": {
        "protocol": {
            "repaired": {},
            "published": {
                "name": "versions-published",
                "data": {"context": 16},
                "stages": {"model": {"train": {"steps": 9}}, "small": None},
            },
        },
        "start": {
            "fresh": {},
            "other": {"stages": {"model": {"stage": "init", "model": {"dim": 8, "layers": 1}}}},
        },
    },
}


def made(*words, raw=RAW, **options):
    return load.recipe(load.override(raw, words), **options)


def test_the_first_version_is_the_default():
    assert made() == made("protocol=repaired", "start=fresh")
    assert list(made().stages) == ["model", "small"]


def test_a_version_is_laid_over_the_recipe():
    published = made("protocol=published")
    assert published.name == "versions-published"
    assert list(published.stages) == ["model"]
    assert published.stages["model"].train.steps == 9
    assert published.stages["model"].data.context == 16
    assert published.stages["model"].data.corpus == "text.txt"


def test_words_are_laid_over_the_version_wherever_they_stand():
    for words in (
        ("protocol=published", "stages.model.train.steps=5"),
        ("stages.model.train.steps=5", "protocol=published"),
    ):
        assert made(*words).stages["model"].train.steps == 5


def test_a_stage_of_another_kind_replaces_the_stage():
    stage = made("start=other").stages["model"]
    assert stage.stage == "init" and stage.model.dim == 8 and stage.model.vocab_size is None


def test_the_recipe_given_stays_as_it_is():
    choose(RAW, ["protocol=published"])
    assert RAW["stages"]["small"]["kind"] == "int8" and "variants" in RAW


def test_an_unknown_version_is_refused():
    with pytest.raises(RequestError, match=r"protocol=publishd: .*did you mean published"):
        made("protocol=publishd")
    with pytest.raises(RequestError, match="protocol"):
        made("protocol=")


@pytest.mark.parametrize(
    "variants",
    [
        3,
        [],
        {"protocol": []},
        {"protocol": {}},
        {"protocol": {"a": 3}},
        {"protocol": {1: {}}},
        {2: {"a": {}}},
        {"seed": {"a": {}}},
        {"sources": {"a": {}}},
    ],
)
def test_versions_that_are_none_are_refused(variants):
    with pytest.raises(RequestError, match="variants"):
        made(raw={**RAW, "variants": variants})


def test_names_of_versions_are_text_and_what_a_version_leaves_out_is_there():
    raw = {"stages": {"teacher": {"stage": "pretrain"}}}
    kinds = {"small": {"name": "s"}, "large": {"name": "l"}}
    assert choose({**raw, "variants": {"size": kinds}}, ['size="large"'])[0]["name"] == "l"
    for versions, said in (
        ({True: {}}, r"variants.size: True .* put it in quotes"),
        ({"small": None}, "variants.size.small: a version has the fields that differ"),
        ({"small": {"stages": {"techer": None}}}, r"small.stages.techer: .*did you mean teacher"),
    ):
        with pytest.raises(RequestError, match=said):
            choose({**raw, "variants": {"size": versions}}, [])


def test_what_is_left_out_is_named_by_text():
    with pytest.raises(RequestError, match="without: 3 is not the name of a stage"):
        load.recipe({"stages": {}}, without=[3])


def test_an_unknown_word_is_told_which_words_choose_versions():
    with pytest.raises(
        RequestError, match=r"protocl: .*did you mean protocol\?.* by protocol and s"
    ):
        made("protocl=published")
    with pytest.raises(RequestError, match="its versions are chosen by protocol and start"):
        made("text=wikitext-2")
