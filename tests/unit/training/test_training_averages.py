"""The running average of weights: what it is, what is validated and kept, and that a resumed run has the same."""

import pytest
import torch
from test_training_trainer import Interrupted, corpus, same, trainer, weights, windows

from flyweight.config import schema
from flyweight.core.events import read_events
from flyweight.planning import memory
from flyweight.planning.dry_run import training_memory
from flyweight.spec import flops
from flyweight.training.averages import Averages
from flyweight.training.planned_training import PlannedTraining

__all__ = ["corpus"]


def test_an_average_follows_by_its_rule():
    tensor = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    averages, expected = Averages([tensor], 0.5), tensor.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            tensor.add_(step)
        averages.step()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * tensor.detach()
    torch.testing.assert_close(averages.state[tensor]["average"], expected)
    before = tensor.detach().clone()
    with averages.swapped():
        torch.testing.assert_close(tensor.detach(), expected)
    assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("stop", [1, 6, 11])
def test_an_interrupted_run_ends_with_the_same_average(corpus, tmp_path, keep, stop):
    options = {"optimizer": "muon", "checkpoint": "1ms", "average": {"decay": 0.9}, "keep": keep}
    whole = trainer(corpus, tmp_path / "a", **options)
    facts = whole.train()
    cut = trainer(corpus, tmp_path / "b", source=Interrupted(windows(corpus), stop), **options)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer(corpus, tmp_path / "b", **options)
    assert resumed.train()["best_nll"] == facts["best_nll"]
    assert same(weights(whole), weights(resumed))


def test_the_average_is_kept_and_validated_and_learning_is_as_without(corpus, tmp_path):
    seen = []

    def made(place, **options):
        built = trainer(corpus, tmp_path / place, keep="last", **options)
        built = built.__class__(
            **{**built.__dict__, "validate": lambda *_: seen.append(weights(built)) or 1.0}
        )
        return built

    plain = made("plain")
    plain.train()
    raw, seen[:] = list(seen), []
    averaged = made("averaged", average={"decay": 0.99})
    averaged.train()
    assert len(seen) == len(raw) == 3
    assert not same(raw[-1], seen[-1])
    assert same(weights(averaged), seen[-1]), "what was validated last is what is kept"
    learned = [
        [
            event["nll"]
            for event in read_events(tmp_path / place / "events.jsonl")
            if "norm" in event
        ]
        for place in ("plain", "averaged")
    ]
    assert learned[0] == learned[1] and len(learned[0]) == 12


def test_a_plan_counts_them():
    fields = {"dim": 32, "layers": 1, "attention": {"heads": 2}}
    model = schema.ModelConfig.model_validate(fields).resolved(256, 32)
    counted = []
    for average in (None, {"decay": 0.9}):
        train = schema.Train.model_validate({"steps": 2, "average": average})
        planned = PlannedTraining(model=model, train=train, context=32)
        counted.append((training_memory(planned).optimizer, memory.training(model, train, 32)))
    weights_of = 4 * flops.parameters(model).unique
    assert counted[1][0] - counted[0][0] == pytest.approx(weights_of, rel=0.01)
    assert counted[1][1].optimizer - counted[0][1].optimizer == weights_of


def test_weights_in_bfloat16_are_not_averaged():
    with pytest.raises(ValueError, match=r"average: weights in bf16 are too coarse"):
        schema.Train.model_validate(
            {"average": {"decay": 0.9}, "memory": {"weights": "bf16"}, "precision": "bf16"}
        )
    with pytest.raises(ValueError, match=r"decay"):
        schema.Train.model_validate({"average": {"decay": 1.0}})
