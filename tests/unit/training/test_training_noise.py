"""Training on noisy inputs: who reads which, and that accumulation and interruptions change nothing."""

import pytest
import torch
from test_training_trainer import CONTEXT, Interrupted, corpus, same, trainer, weights, windows

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.core.events import read_events
from flyweight.data.batch import Batch
from flyweight.data.noise import NoisyInputs
from flyweight.model.decoder import Decoder
from flyweight.planning.dry_run import training_memory
from flyweight.training.objectives import DistillationObjective, NextTokenObjective
from flyweight.training.planned_training import PlannedTraining

__all__ = ["corpus"]


def source(corpus, batch=4, rate=0.3):
    return NoisyInputs(windows(corpus, batch), corpus.split("train").tokens, rate, batch, 0)


def model(corpus, dim=16, **fields):
    config = {"dim": dim, "layers": 1, "attention": {"heads": 2}} | fields
    return Decoder(ModelConfig.model_validate(config).resolved(corpus.meta.vocab_size, CONTEXT))


def test_the_student_reads_noise_and_its_teacher_the_text(corpus):
    batch, student, teacher = source(corpus).batch(0), model(corpus), model(corpus, dim=24)
    read = {}
    for name, decoder in (("student", student), ("teacher", teacher)):
        whole = decoder._hidden

        def noted(tokens, *rest, name=name, whole=whole):
            read[name] = tokens
            return whole(tokens, *rest)

        decoder._hidden = noted
    summed = DistillationObjective(schema.Distillation(), teacher)(student, batch)
    assert torch.equal(read["student"], batch.noisy) and torch.equal(read["teacher"], batch.inputs)
    assert not torch.equal(batch.noisy, batch.inputs)
    assert summed.targets == batch.targets.numel()


def test_the_loss_is_that_of_the_noisy_inputs_with_the_same_targets(corpus):
    batch = source(corpus).batch(0)
    objective = NextTokenObjective(schema.NextToken())
    bigram = model(corpus, embedding={"bigram": {"kind": "exact"}})
    found = objective(bigram, batch).loss
    as_given = objective(bigram, Batch.from_tensors(batch.noisy, batch.targets)).loss
    assert torch.equal(found, as_given)
    assert not torch.equal(
        found, objective(bigram, Batch.from_tensors(batch.inputs, batch.targets)).loss
    )


@pytest.mark.parametrize("stop", [2, 7])
def test_an_interrupted_run_ends_with_the_same_bits(corpus, tmp_path, stop):
    whole = trainer(corpus, tmp_path / "a", source=source(corpus), checkpoint="1ms")
    whole.train()
    cut = trainer(
        corpus, tmp_path / "b", source=Interrupted(source(corpus), stop), checkpoint="1ms"
    )
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer(corpus, tmp_path / "b", source=source(corpus), checkpoint="1ms")
    resumed.train()
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("depth", [0.0, 0.4])
def test_accumulation_changes_nothing_but_rounding(corpus, tmp_path, depth):
    runs = []
    for accumulate in (1, 2, 4):
        made = trainer(
            corpus,
            tmp_path / str(accumulate),
            model=model(corpus, layers=3, dropout={"depth": depth}),
            source=source(corpus),
            accumulate=accumulate,
        )
        made.train()
        runs.append((made, [e["nll"] for e in read_events(made.draft.events.path) if "norm" in e]))
    for other, nlls in runs[1:]:
        assert nlls == pytest.approx(runs[0][1], abs=2e-5)
        for name, weight in weights(other).items():
            torch.testing.assert_close(weight, weights(runs[0][0])[name], atol=1e-4, rtol=1e-3)


def test_a_plan_counts_the_noisy_inputs():
    fields = {"dim": 32, "layers": 1, "attention": {"heads": 2}}
    decoder = schema.ModelConfig.model_validate(fields).resolved(64, 32)
    plain, with_noise = (
        training_memory(
            PlannedTraining(
                model=decoder,
                train=schema.Train.model_validate({"steps": 2, "batch": 64, "input_noise": rate}),
                context=32,
            )
        ).total
        for rate in (0.0, 0.1)
    )
    assert with_noise - plain == 64 * 32 * 8
