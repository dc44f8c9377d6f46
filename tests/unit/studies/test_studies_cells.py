"""The cells of a study: what is laid over what."""

from toy_study import toy_study

from flyweight.config import catalogue, study as config
from flyweight.studies import cells as study_cells


def made(**fields):
    study = config.parse(toy_study("story.txt", **fields), "toy")
    cells, faults = study_cells.cells(study)
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
