import itertools
import json
import math
import random
import time
from pathlib import Path

import pytest
import torch

from flyweight.compression.quantize import quantize
from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.core.events import Events, read_events
from flyweight.core.files import write_sealed
from flyweight.core.pinned import PinnedFolder
from flyweight.core.runtime import Runtime
from flyweight.data.pack import pack
from flyweight.data.windows import Windows
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import likelihood
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Draft, Identity
from flyweight.store.budget import BudgetSpent, Meter
from flyweight.training import checkpoint, trainer as trainer_module
from flyweight.training.finetune import prepared
from flyweight.training.limits import Limits
from flyweight.training.objectives import LossSum, NextTokenObjective
from flyweight.training.optimizers import build_optimizers
from flyweight.training.step_cost import StepCost
from flyweight.training.trainer import Trainer
from flyweight.training.world import OneProcess

CONTEXT = 16
COST = StepCost.constant(1000)
PLAIN = NextTokenObjective(schema.NextToken())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = random.Random(0).choices(["small", "models", "under", "a", "budget"], k=1500)
    (folder / "text.txt").write_text(
        "\n".join(" ".join(words[i : i + 10]) for i in range(0, 1500, 10))
    )
    data = schema.Data(corpus=str(folder / "text.txt"), tokenizer={"kind": "byte"}, context=CONTEXT)
    return pack(data, None, folder / "packed")


class Interrupted:
    """A source that ends the process, as far as a test can, when it is asked for a step."""

    def __init__(self, source, step):
        self.source, self.step, self.context = source, step, source.context

    def batch(self, step, rows=slice(None), rank=0, world=1):
        if step == self.step:
            raise KeyboardInterrupt
        return self.source.batch(step, rows, rank, world)


def windows(corpus, batch=4):
    return Windows(corpus.split("train"), CONTEXT, batch, 0)


def trainer(
    corpus,
    folder,
    model=None,
    limits=None,
    meter=None,
    validate=None,
    cost=COST,
    objective=PLAIN,
    source=None,
    world=None,
    **options,
):
    config = {"dim": 16, "layers": 1, "attention": {"heads": 2}, "dropout": 0.1}
    vocab = corpus.meta.vocab_size
    model = model or Decoder(ModelConfig.model_validate(config).resolved(vocab, CONTEXT))
    train = schema.Train.model_validate(
        {"steps": 12, "batch": 4, "validations": 3, "checkpoint": "1h", **options}
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        model=model,
        objective=objective,
        source=source or windows(corpus, train.batch),
        validate=validate
        or (
            lambda tokens, _: likelihood.quick(
                model, corpus.split("validation"), window=CONTEXT, tokens=min(tokens, 200), batch=4
            )
        ),
        config=train,
        limits=limits or Limits.of(train, train.batch * CONTEXT, cost, "x"),
        cost=cost,
        runtime=Runtime("cpu", 1),
        precision="bf16" if train.products == "bf16" else "fp32",
        draft=Draft(PinnedFolder(folder), Identity("toy", 1, {}), Events(folder / "events.jsonl")),
        meter=meter or Meter(schema.Budget()),
        name="toy",
        world=world or OneProcess(),
    )


def weights(made):
    return {name: p.detach().clone() for name, p in made.model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [1, 5, 9, 11])
def test_an_interrupted_run_ends_with_the_same_bits(corpus, tmp_path, optimizer, stop):
    options = {"optimizer": optimizer, "checkpoint": "1ms"}
    whole = trainer(corpus, tmp_path / "a", **options)
    facts = whole.train()
    broken = trainer(corpus, tmp_path / "b", source=Interrupted(windows(corpus), stop), **options)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    again = trainer(corpus, tmp_path / "b", **options)
    state = again.start()
    assert state.first_step in (stop, stop - 1)
    resumed = again.run(state)
    assert same(weights(whole), weights(again))
    assert [resumed[k] for k in ("steps", "tokens", "flops", "best_nll", "best_step")] == [
        facts[k] for k in ("steps", "tokens", "flops", "best_nll", "best_step")
    ]
    keep = ("event", "step", "nll", "lr")
    logs = [
        [{k: e.get(k) for k in keep} for e in read_events(tmp_path / x / "events.jsonl")]
        for x in "ab"
    ]
    assert logs[0] == logs[1]


def test_training_learns(corpus, tmp_path):
    made = trainer(corpus, tmp_path, steps=60, optimizer={"kind": "adamw", "lr": 0.02})
    facts = made.train()
    validations = [
        e["nll"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "validation"
    ]
    assert facts["best_nll"] < 3.0 < math.log(corpus.meta.vocab_size)
    assert validations[-1] < validations[0]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_is_the_same_update_as_one_big_batch(corpus, tmp_path, accumulate):
    config = ModelConfig.model_validate(
        {"dim": 16, "layers": 1, "attention": {"heads": 2}}
    ).resolved(corpus.meta.vocab_size, CONTEXT)
    whole = trainer(corpus, tmp_path / "a", Decoder(config).double(), validations=0)
    parts = trainer(
        corpus, tmp_path / "b", Decoder(config).double(), validations=0, accumulate=accumulate
    )
    whole.train(), parts.train()
    first, second = weights(whole), weights(parts)
    for name in first:
        # The head's gradient is summed in float32: where it nearly cancels, AdamW makes a step of
        # the rounding.
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_best_weights_are_kept_and_the_last_on_request(corpus, tmp_path):
    nlls = iter([3.0, 1.0, 2.0] * 2)
    best = trainer(corpus, tmp_path / "a", validate=lambda *_: next(nlls))
    best_facts = best.train()
    last = trainer(corpus, tmp_path / "b", validate=lambda *_: next(nlls), keep="last")
    last.train()
    assert (best_facts["best_step"], best_facts["best_nll"]) == (8, 1.0)
    assert not same(weights(best), weights(last))


def test_a_time_limit_ends_with_a_decayed_rate(corpus, tmp_path):
    train = {"steps": None, "time": "1500ms", "schedule": {"tail": "linear", "warmup": 0.1}}
    facts = trainer(corpus, tmp_path, **train).train()
    rates = [e["lr"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "step"]
    assert facts["stopped_by"] == "time"
    assert 1.4 < facts["seconds"] < 6
    assert rates[-1] < 0.2 * max(rates)


@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        ({"steps": 12}, 12),
        ({"tokens": 320}, 5),
        ({"flops": 7000}, 7),
        ({"steps": 9, "tokens": 128}, 2),
    ],
)
def test_whichever_limit_comes_first(corpus, tmp_path, limit, steps):
    assert (
        trainer(corpus, tmp_path, **{"steps": None, "validations": 0, **limit}).train()["steps"]
        == steps
    )


def test_divergence_stops_and_keeps_the_last_good_checkpoint(corpus, tmp_path):
    calls = itertools.count()

    def breaks(model, batch):
        summed = PLAIN(model, batch)
        if next(calls) < 6:
            return summed
        return LossSum(summed.loss * math.nan, summed.nll * math.nan, summed.targets)

    made = trainer(corpus, tmp_path, objective=breaks, checkpoint="1ms")
    with pytest.raises(FlyweightError, match=r"diverged at step 7.*kept"):
        made.train()
    assert (tmp_path / "state" / "current.json").exists()
    assert all(torch.isfinite(p).all() for p in made.model.parameters())


def test_other_errors_are_not_disguised(corpus, tmp_path):
    def breaks(model, batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        trainer(corpus, tmp_path, objective=breaks).train()


def test_a_spent_budget_stops_and_goes_on_with_a_larger_one(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "SHOWN_EVERY", 0.0)
    small = trainer(
        corpus,
        tmp_path,
        meter=Meter(schema.Budget.model_validate({"flops": 5000})),
        checkpoint="1ms",
    )
    state = small.start()
    with pytest.raises(BudgetSpent, match=r"budget\.flops"):
        small.run(state)
    assert 0 < state.progress.step < 12
    assert trainer(corpus, tmp_path, checkpoint="1ms").train()["steps"] == 12


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_named(corpus, tmp_path, name):
    made = trainer(corpus, tmp_path)
    made.train()
    (file,) = list((tmp_path / "state").glob(f"step-*12/{name}"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FlyweightError, match=name):
        trainer(corpus, tmp_path).train()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda content: content.pop("progress"), "progress"),
        (lambda content: content["progress"].update(step="12"), r"progress\.step"),
        (lambda content: content["progress"].update(step=-1), r"progress\.step"),
        (lambda content: content["progress"].update(more=1), r"progress\.more"),
        (lambda content: content.update(files=[]), "files"),
        (lambda content: content.update(artifact="pretrain-00000000"), "pretrain-00000000"),
    ],
)
def test_a_sealed_checkpoint_that_says_nonsense_is_named(corpus, tmp_path, change, what):
    trainer(corpus, tmp_path).train()
    pointer = tmp_path / "state" / "current.json"
    content = json.loads(pointer.read_text())
    del content["digest"]
    change(content)
    write_sealed(pointer, content)
    with pytest.raises(FlyweightError, match=rf"current\.json .*{what}"):
        trainer(corpus, tmp_path).train()


def test_old_checkpoints_go_but_for_the_best(corpus, tmp_path):
    nlls = iter([1.0, 2.0, 3.0])
    trainer(corpus, tmp_path, validate=lambda *_: next(nlls), checkpoint="1ms").train()
    assert sorted(p.name for p in Path(tmp_path / "state").glob("step-*")) == [
        "step-00000004",
        "step-00000012",
    ]
    best = tmp_path / "state" / "step-00000004"
    assert [file.name for file in best.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("packed", [False, True])
def test_the_checkpoints_of_an_adapter_take_four_times_its_bytes(corpus, tmp_path, packed):
    config = {"dim": 128, "layers": 2, "attention": {"heads": 2}}
    base = Decoder(ModelConfig.model_validate(config).resolved(corpus.meta.vocab_size, CONTEXT))
    base = quantize(base, schema.NF4(), schema.Int8()) if packed else base
    frozen = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = prepared(base, schema.Lora(r=16))
    nlls = iter([1.0, 2.0, 3.0])
    options = {"optimizer": "adamw", "validate": lambda *_: next(nlls), "keep": "last"}
    trainer(corpus, tmp_path, model, **options).train()
    added = model.state_dict().keys() - frozen.keys()
    adapter = sum(model.state_dict()[name].nbytes for name in added)
    state = tmp_path / "state"
    newest = sum(file.stat().st_size for file in (state / "step-00000012").iterdir())
    assert 3 * adapter <= newest <= 4 * adapter  # weights and AdamW's two states
    everything = sum(file.stat().st_size for file in state.rglob("*.*") if file.is_file())
    assert newest + adapter <= everything <= 4.2 * adapter  # the best weights, names and sums
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in frozen.items())


def test_a_second_save_at_the_same_step_keeps_the_first_until_it_is_whole(
    corpus, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    made = trainer(corpus, tmp_path, keep="last")
    state = made.start()
    made.run(state)
    kept, saved = (
        weights(made),
        (
            made.draft.state,
            made.draft.name,
            state.progress,
            made.model,
            state.optimizers,
        ),
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_file", killed)
        checkpoint.save(*saved)
    again = trainer(corpus, tmp_path)
    optimizers = build_optimizers(again.model, again.config.optimizer, "fp32")
    assert checkpoint.load(made.draft.state, made.draft.name, again.model, optimizers) is not None
    assert same(weights(again), kept)
    for _ in range(3):
        checkpoint.save(*saved)
        assert len(list((tmp_path / "state").glob("step-*"))) == 1 + (
            state.progress.best_step != state.progress.step
        )
        best = checkpoint.best_file(tmp_path / "state", state.progress)
        assert best is not None and best.is_file()
        assert (
            checkpoint.load(made.draft.state, made.draft.name, again.model, optimizers) is not None
        )


def test_a_time_limit_that_passes_while_validating_is_not_validated_twice(corpus, tmp_path):
    calls = itertools.count()

    def slow(*_):
        call = next(calls)
        if call:  # not the one that is timed beforehand
            time.sleep(0.5)
        return 9.0 - call / 10

    def validated():
        events = read_events(tmp_path / "events.jsonl")
        return [event["step"] for event in events if event["event"] == "validation"]

    options = {"validate": slow, "steps": None, "time": "800ms", "validations": 2}
    facts = trainer(corpus, tmp_path, **options).train()
    steps = validated()
    assert len(steps) == len(set(steps)) > 0 and facts["best_step"] == steps[-1]
    trainer(corpus, tmp_path, **options).train()
    assert len(validated()) == len(set(validated()))


def test_validations_of_a_training_by_the_clock_take_a_tenth_of_it_at_most(corpus, tmp_path):
    asked, began = [], time.monotonic()

    def slow(tokens, _):
        asked.append(tokens)
        time.sleep(
            tokens * 1e-5
        )  # 20 ms for the one that is timed, 0.66 s for one of the size that was asked for
        return 3.0

    made = trainer(corpus, tmp_path, validate=slow, steps=None, time="2s", validations=10)
    state = made.start()
    made.run(state)
    assert time.monotonic() - began < 2.6
    assert asked[0] == 2048 and len(set(asked[1:])) == 1
    assert sum(asked[1:]) * 1e-5 <= 0.1 * 2
    assert state.progress.step in (state.progress.best_step, state.progress.validated)


def test_a_training_by_the_clock_ends_early_where_the_budget_leaves_less(corpus, tmp_path):
    meter = Meter(schema.Budget.model_validate({"time": "10s"}))
    meter.training_ends = meter.seconds() + 0.6
    facts = trainer(corpus, tmp_path / "a", meter=meter, steps=None, time="1s").train()
    assert 0.5 < facts["seconds"] < 0.95 and facts["stopped_by"] == "time"
    meter.training_ends = 0.0
    assert (
        0.45
        < trainer(corpus, tmp_path / "b", meter=meter, steps=None, time="1s").train()["seconds"]
        < 0.95
    )


def late_loop(corpus):
    sharing = {"kind": "span", "span": [1, 1], "times": 3, "loop_from": 0.5, "index": True}
    config = {
        "dim": 16,
        "layers": 3,
        "attention": {"heads": 2},
        "sharing": sharing,
        "thinking": {"passes": 1},
    }
    return Decoder(ModelConfig.model_validate(config).resolved(corpus.meta.vocab_size, CONTEXT))


def test_a_loop_is_switched_on_at_its_fraction_and_counted_from_then_on(corpus, tmp_path):
    cost = StepCost(unlooped=3, looped=10, switch_at=0.5)
    seen = []

    def counts_visits(model, batch):
        seen.append(len(model.visits))
        return PLAIN(model, batch)

    made = trainer(
        corpus,
        tmp_path / "a",
        late_loop(corpus),
        objective=counts_visits,
        cost=cost,
        steps=12,
        validations=4,
    )
    facts = made.train()
    assert seen == [6] * 6 + [10] * 6
    assert len(made.model.visits) == 10
    assert facts["flops"] == cost.total(12) == 6 * 3 + 6 * 10
    assert facts["best_step"] >= 6  # what was validated before is not the model that is kept
    logged = {
        e["step"]: e["flops"]
        for e in read_events(tmp_path / "a" / "events.jsonl")
        if e["event"] == "validation"
    }
    assert logged[3] == 9 and logged[12] == 78


@pytest.mark.parametrize("stop", [4, 6, 7])
def test_a_run_interrupted_around_the_switch_ends_with_the_same_bits(corpus, tmp_path, stop):
    cost = StepCost(unlooped=3, looped=10, switch_at=0.5)
    whole = trainer(corpus, tmp_path / "a", late_loop(corpus), cost=cost, checkpoint="1ms")
    facts = whole.train()
    broken = trainer(
        corpus,
        tmp_path / "b",
        late_loop(corpus),
        cost=cost,
        source=Interrupted(windows(corpus), stop),
        checkpoint="1ms",
    )
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    again = trainer(corpus, tmp_path / "b", late_loop(corpus), cost=cost, checkpoint="1ms")
    resumed = again.train()
    assert same(weights(whole), weights(again))
    assert resumed["flops"] == facts["flops"] and resumed["best_nll"] == facts["best_nll"]


def test_a_checkpoint_is_not_written_through_a_link(corpus, tmp_path, elsewhere):
    made = trainer(corpus, tmp_path / "draft")
    (tmp_path / "draft" / "state").symlink_to(elsewhere / "state")
    with pytest.raises(RequestError, match="state is a symbolic link"):
        made.train()


def test_an_older_checkpoint_that_is_a_link_stays_what_it_leads_to(corpus, tmp_path, elsewhere):
    made = trainer(corpus, tmp_path / "draft")
    (tmp_path / "draft" / "state").mkdir()
    (tmp_path / "draft" / "state" / "step-00000003").symlink_to(elsewhere / "state")
    made.train()
    assert (tmp_path / "draft" / "state" / "current.json").is_file()
