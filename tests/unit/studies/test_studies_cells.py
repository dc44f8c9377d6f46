"""From a study's file to its cells: what is laid over what, and what is planned."""

import pytest
from known_machine import CPU
from toy_study import toy_study

from flyweight.config import catalogue, study as config, tuning_study
from flyweight.errors import RequestError
from flyweight.planning.vocabulary import vocabulary_key
from flyweight.studies import cells as studies

OTHERS = ("tradeoffs/", "compact-ladder/")
"""Folders of the catalogue that shipped studies are written for."""


def made(**fields):
    study = config.parse(toy_study("story.txt", **fields), "toy")
    cells, faults = studies.cells(study)
    assert not faults
    return cells


def test_every_combination_is_a_cell():
    cells = made(data={"story": {"corpus": "story.txt", "tokenizer": "byte", "context": [16, 32]}})
    assert [(cell.fields["position"], cell.context, cell.budget) for cell in cells] == [
        ("learned", 16, "short"),
        ("learned", 32, "short"),
        ("rope", 16, "short"),
        ("rope", 32, "short"),
    ]
    assert len({cell.name for cell in cells}) == 4
    assert all(
        cell.config.data.context == cell.config.model.context == cell.context for cell in cells
    )


def test_fields_are_laid_over_a_config_without_losing_its_kinds():
    models = {
        "wide": {
            "config": {"dim": 16, "layers": 1, "mlp": "relu2"},
            "fields": {"dim": 32, "mlp": {"hidden": 24}},
        }
    }
    (cell,) = made(models=models, findings=[])
    model = cell.config.model
    assert (model.dim, model.layers, model.mlp.kind, model.mlp.hidden) == (32, 1, "relu2", 24)


def test_a_model_of_the_catalogue_takes_vocabulary_and_context_from_the_text():
    (cell,) = made(models={"nano": "nanogpt-char"}, findings=[])
    assert catalogue.fields("nanogpt-char")["vocab_size"] == 65
    assert (cell.config.model.vocab_size, cell.config.model.context, cell.config.model.layers) == (
        None,
        32,
        6,
    )


def test_the_protocol_gives_the_rate_and_a_model_its_own_training():
    models = {
        "a": {"config": {"dim": 16, "layers": 1}, "train": {"batch": 2}},
        "b": {"config": {"dim": 16, "layers": 1}},
    }
    first, second = made(
        models=models,
        findings=[],
        train={"batch": 8, "optimizer": {"kind": "muon", "rest": {"lr": 0.001}}},
    )
    assert (first.config.train.batch, second.config.train.batch) == (2, 8)
    run = second.at(0.04).train
    assert (run.optimizer.lr, run.optimizer.kind, run.optimizer.rest.lr, run.steps) == (
        0.04,
        "muon",
        0.001,
        40,
    )
    assert second.at(None) == second.config


def test_a_model_may_be_restricted():
    data = {
        name: {"corpus": "story.txt", "tokenizer": "byte", "context": 16} for name in ("one", "two")
    }
    models = {
        "a": {"config": {"dim": 16, "layers": 1}, "data": "two", "context": [8], "budgets": "long"},
        "b": {"config": {"dim": 16, "layers": 1}},
    }
    cells = made(
        data=data,
        models=models,
        budgets={"short": {"steps": 1}, "long": {"tokens": "1k"}},
        findings=[],
    )
    assert [(c.data, c.context, c.budget) for c in cells if c.model == "a"] == [("two", 8, "long")]
    assert len([c for c in cells if c.model == "b"]) == 4
    assert [
        c.model
        for c in made(
            models=models, data=data, budgets={"long": {"steps": 1}}, findings=[], only="a"
        )
    ] == ["a"]


def test_the_plan_counts_every_run(tmp_path, text_file):
    study = studies.checked(config.parse(toy_study(text_file, protocol="tuned"), "toy"), "toy")
    plan = studies.plan(study, CPU, {}, None)
    assert plan.totals["runs"] == 8
    assert plan.totals["flops"] == pytest.approx(sum(4 * cell.stage.flops for cell in plan.cells))
    assert {cell.stage.steps for cell in plan.cells} == {40}
    tight = study.model_copy(update={"limit": config.Limit.model_validate({"time": "1ms"})})
    assert "limit.time" in studies.plan(tight, CPU, {}, None).warnings[0]


WORDS = {"config": {"dim": 8, "layers": 1, "embedding": {"bigram": "exact"}}}
LETTERS = {"config": {"dim": 256, "layers": 1, "embedding": {"rank": 200}}}


def test_a_vocabulary_that_is_only_assumed_refuses_no_model(tmp_path, text_file):
    raw = toy_study(
        text_file,
        models={"words": WORDS | {"data": "words"}, "letters": LETTERS | {"data": "letters"}},
        findings=[],
    )
    raw["data"] = {
        name: {"corpus": str(text_file), "tokenizer": kind}
        for name, kind in (("words", "word"), ("letters", "char"))
    }
    study = studies.checked(config.parse(raw, "toy"), "toy")
    planned = studies.plan(study, CPU, {}, None)
    assert [note.partition(" (")[0] for note in planned.assumed] == [
        "1024 word tokens",
        "200 char tokens",
        "memory is what is in use; without budget.memory freed blocks are kept for later, "
        "and up to 1.8 times as much was held",
    ]
    made = studies.cells(study)[0]
    known = {
        vocabulary_key(data): vocab
        for data, vocab in zip(studies.texts(made).values(), (2000, 99), strict=True)
    }
    with pytest.raises(RequestError) as refused:
        studies.plan(study, CPU, known, None)
    assert str(refused.value).splitlines() == [
        "toy-study:",
        "  words on words: model: embedding.bigram: an exact table for vocab_size 2000 has "
        "2000^2 rows; use {kind: hashed,"
        " buckets: ...}",
        "  letters on letters: model: embedding.rank: 200 is larger than vocab_size 99; a "
        "factorised embedding has to be"
        " narrower",
    ]


def test_findings_of_two_seeds_are_said_to_stay_undecided(text_file):
    study = studies.checked(config.parse(toy_study(text_file, seeds=[0, 1]), "toy"), "toy")
    planned = studies.plan(study, CPU, {}, None)
    assert planned.notes == ("2 seeds: every finding will stay undecided; a test needs 3",)
    assert not planned.warnings
    assert planned.notes[0] in planned.remarks()


def test_an_optional_text_that_is_not_there_is_left_out_of_the_plan(tmp_path, text_file):
    (tmp_path / "wikitext-2").mkdir()
    raw = toy_study(text_file)
    raw["data"]["wikitext-2"] = {"corpus": "wikitext-2", "context": 32, "optional": True}
    study = studies.checked(config.parse(raw, "toy"), "toy")
    plan = studies.plan(study, CPU, {}, tmp_path)
    assert plan.totals["runs"] == 6
    assert plan.left_out[0].startswith("wikitext-2 is left out")


OF_TUNING = [name for name in studies.shipped() if name.startswith("finetuning")]


@pytest.mark.parametrize("name", OF_TUNING)
def test_shipped_studies_of_fine_tuning_are_valid(name):
    study = tuning_study.parse(studies.read_raw(name)[1], name)
    assert study.name == name
    assert len(study.seeds) >= 3
    assert {"full", "frozen", "bottleneck", "lora", "prefix", "scratch"} <= set(study.methods)


@pytest.mark.parametrize("name", [name for name in studies.shipped() if name not in OF_TUNING])
def test_shipped_studies_are_valid(name):
    try:
        study = studies.load(name, yes=True)
    except RequestError as error:
        faults = str(error).splitlines()[1:]
        missing = {
            folder
            for folder in OTHERS
            if not any(each.startswith(folder) for each in catalogue.names())
        }
        assert missing
        assert all(any(f"config: {folder}" in fault for folder in OTHERS) for fault in faults), (
            "\n".join(faults)
        )
    else:
        assert study.name == name
        assert len(study.seeds) >= 3
        assert study.findings
