"""What a study will need, and what a plan refuses."""

import pytest
from known_machine import CPU
from toy_study import toy_study

from flyweight.config import study as config
from flyweight.errors import RequestError
from flyweight.planning.vocabulary import vocabulary_key
from flyweight.studies import cells as study_cells, study_files, study_plan


def test_the_plan_counts_every_run(tmp_path, text_file):
    study = study_files.checked(config.parse(toy_study(text_file, protocol="tuned"), "toy"), "toy")
    plan = study_plan.plan(study, CPU, {}, None)
    assert plan.totals["runs"] == 8
    assert plan.totals["flops"] == pytest.approx(sum(4 * cell.stage.flops for cell in plan.cells))
    assert {cell.stage.steps for cell in plan.cells} == {40}
    tight = study.model_copy(update={"limit": config.Limit.model_validate({"time": "1ms"})})
    assert "limit.time" in study_plan.plan(tight, CPU, {}, None).warnings[0]


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
    study = study_files.checked(config.parse(raw, "toy"), "toy")
    planned = study_plan.plan(study, CPU, {}, None)
    assert [note.partition(" (")[0] for note in planned.assumed] == [
        "1024 word tokens",
        "200 char tokens",
        "memory is what is in use; without budget.memory freed blocks are kept for later, "
        "and up to 1.8 times as much was held",
    ]
    made = study_cells.cells(study)[0]
    known = {
        vocabulary_key(data): vocab
        for data, vocab in zip(study_cells.texts(made).values(), (2000, 99), strict=True)
    }
    with pytest.raises(RequestError) as refused:
        study_plan.plan(study, CPU, known, None)
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
    study = study_files.checked(config.parse(toy_study(text_file, seeds=[0, 1]), "toy"), "toy")
    planned = study_plan.plan(study, CPU, {}, None)
    assert planned.notes == ("2 seeds: every finding will stay undecided; a test needs 3",)
    assert not planned.warnings
    assert planned.notes[0] in planned.remarks()


def test_an_optional_text_that_is_not_there_is_left_out_of_the_plan(tmp_path, text_file):
    (tmp_path / "wikitext-2").mkdir()
    raw = toy_study(text_file)
    raw["data"]["wikitext-2"] = {"corpus": "wikitext-2", "context": 32, "optional": True}
    study = study_files.checked(config.parse(raw, "toy"), "toy")
    plan = study_plan.plan(study, CPU, {}, tmp_path)
    assert plan.totals["runs"] == 6
    assert plan.left_out[0].startswith("wikitext-2 is left out")
