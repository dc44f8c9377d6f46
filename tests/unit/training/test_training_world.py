"""Losses are divided by the real targets of a whole step: over micro-batches and over processes."""

import random
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.core.events import Events, read_events
from flyweight.core.runtime import Runtime
from flyweight.data.batch import IGNORE, Batch
from flyweight.data.pack import pack
from flyweight.data.windows import Windows
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Draft, Identity
from flyweight.store.budget import Meter
from flyweight.training.limits import Limits
from flyweight.training.objectives import Distillation, NextToken
from flyweight.training.optimizers import build_optimizers, set_rates
from flyweight.training.step_cost import StepCost
from flyweight.training.trainer import Trainer
from flyweight.training.world import OneProcess

CONTEXT, BATCH, STEPS = 16, 8, 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = random.Random(0).choices(["small", "models", "under", "a", "budget"], k=900)
    (folder / "text.txt").write_text(
        "\n".join(" ".join(words[i : i + 9]) for i in range(0, 900, 9))
    )
    data = schema.Data(corpus=str(folder / "text.txt"), tokenizer={"kind": "byte"}, context=CONTEXT)
    return pack(data, None, folder / "packed")


class Uneven:
    """Windows whose rows have 0 to CONTEXT real targets, as completions and padding leave them.

    With `weights`, real targets weigh 0.5 to 1.5.
    """

    context = CONTEXT

    def __init__(self, corpus, weights=False):
        self.windows = Windows(corpus.split("train"), CONTEXT, BATCH, 0)
        self.weights = weights

    def batch(self, step, rows=slice(None), rank=0, world=1):
        whole = self.windows.batch(step)
        generator = torch.Generator().manual_seed(step)
        first = torch.randint(CONTEXT + 1, (BATCH, 1), generator=generator)
        first[:3], first[3] = CONTEXT, 0  # whole micro-batches have no targets
        targets = torch.where(torch.arange(CONTEXT) < first, IGNORE, whole.targets)
        weights = 0.5 + torch.rand(BATCH, CONTEXT, generator=generator)
        share = torch.arange(BATCH).chunk(world)[rank][rows]
        return Batch.from_tensors(
            whole.inputs[share], targets[share], weights[share] if self.weights else None
        )


def decoder(corpus, seed=0, dim=16, **fields):
    config = {"dim": dim, "layers": 1, "attention": {"heads": 2}, **fields}
    vocab = corpus.meta.vocab_size
    return Decoder(ModelConfig.model_validate(config).resolved(vocab, CONTEXT), seed=seed)


def trainer(corpus, folder, source, objective=None, world=None, **options):
    train = schema.Train.model_validate(
        {"steps": STEPS, "batch": BATCH, "validations": 0, "checkpoint": "1h", **options}
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        model=decoder(corpus).double(),
        objective=objective or NextToken(schema.NextToken()),
        source=source,
        validate=lambda tokens: 0.0,
        config=train,
        limits=Limits(train.steps, None),
        cost=StepCost.constant(1),
        runtime=Runtime("cpu", 1),
        precision="fp32",
        draft=Draft(folder, Identity("toy", 1, {}), Events(folder / "events.jsonl")),
        meter=Meter(schema.Budget()),
        name="toy",
        world=world or OneProcess(),
    )


def assert_same_weights(a, b):
    for (name, first), (_, second) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6, msg=name)


def objective_of(name, corpus):
    if name == "next_token":
        return NextToken(schema.NextToken())
    teacher = decoder(corpus, seed=5).double().requires_grad_(False)
    return Distillation(schema.Distillation(temperature=2.0, weight=0.6), teacher)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("objective", ["next_token", "distillation"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulation_makes_the_same_update_where_targets_are_uneven(
    corpus, tmp_path, optimizer, objective, weights
):
    whole, *others = [
        trainer(
            corpus,
            tmp_path / str(accumulate),
            Uneven(corpus, weights),
            objective_of(objective, corpus),
            optimizer=optimizer,
            accumulate=accumulate,
        )
        for accumulate in (1, 2, 4, 8)
    ]
    start = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    whole.train()
    assert all((p - start[name]).abs().max() > 1e-4 for name, p in whole.model.named_parameters())
    logs = [read_events(whole.draft.events.path)]
    for other in others:
        other.train()
        assert_same_weights(whole.model, other.model)
        logs.append(read_events(other.draft.events.path))
    for key in ("nll", "norm"):
        for events in zip(*logs, strict=True):
            assert [e[key] for e in events] == pytest.approx([events[0][key]] * 4, abs=2e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_is_that_of_the_mean_over_real_targets(corpus, tmp_path, optimizer):
    source = Uneven(corpus)
    made = trainer(
        corpus,
        tmp_path,
        source,
        optimizer=optimizer,
        accumulate=4,
        clip=0.0,
        schedule={"warmup": 0.0, "tail": "none"},
    )
    model = decoder(corpus).double()
    optimizers = build_optimizers(model, made.config.optimizer, "fp32")
    nlls = []
    for step in range(STEPS):
        batch = source.batch(step)
        set_rates(optimizers, 1.0)
        for each in optimizers:
            each.zero_grad()
        logits = model(batch.inputs).flatten(0, 1)
        loss = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE)
        loss.backward()
        for each in optimizers:
            each.step()
        nlls.append(loss.item())
    made.train()
    assert_same_weights(made.model, model)
    logged = [event["nll"] for event in read_events(made.draft.events.path)]
    assert logged == pytest.approx(nlls, abs=2e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_where_all_targets_are_real_the_bits_are_those_of_dividing_by_all_tokens(
    corpus, tmp_path, accumulate
):
    """What was trained before there were batches with masks stays what it was."""
    source = Windows(corpus.split("train"), CONTEXT, BATCH, 0)
    made = trainer(
        corpus,
        tmp_path,
        source,
        accumulate=accumulate,
        clip=0.0,
        schedule={"warmup": 0.0, "tail": "none"},
    )
    model = decoder(corpus).double()
    (optimizer,) = build_optimizers(model, made.config.optimizer, "fp32")
    objective, size = NextToken(schema.NextToken()), BATCH // accumulate
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(accumulate):
            batch = source.batch(step, slice(micro * size, (micro + 1) * size))
            (objective(model, batch).loss / (BATCH * CONTEXT)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        optimizer.step()
    made.train()
    for (name, first), (_, second) in zip(
        made.model.named_parameters(), model.named_parameters(), strict=True
    ):
        assert torch.equal(first, second), name


class Exchange:
    """What the threads of a simulated world give each other."""

    def __init__(self, size):
        self.size = size
        self.slots = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)


class Rank:
    """One process of a world, simulated by a thread."""

    def __init__(self, rank, exchange):
        self.rank, self.size, self.exchange = rank, exchange.size, exchange
        self.sums = 0

    def _gather(self, value):
        self.exchange.slots[self.rank] = value
        self.exchange.barrier.wait()
        values = list(self.exchange.slots)
        self.exchange.barrier.wait()
        return values

    def sum(self, number):
        self.sums += 1
        return sum(self._gather(number))

    def sum_gradients(self, parameters):
        gradients = [parameter.grad.clone() for parameter in parameters]
        for parameter, *shares in zip(parameters, *self._gather(gradients), strict=True):
            parameter.grad.copy_(sum(shares))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_processes_make_the_update_of_a_single_one(corpus, tmp_path, optimizer, size, accumulate):
    alone = trainer(corpus, tmp_path / "alone", Uneven(corpus), optimizer=optimizer)
    facts = alone.train()
    exchange, found = Exchange(size), {}
    ranks = [
        trainer(
            corpus,
            tmp_path / str(rank),
            Uneven(corpus),
            world=Rank(rank, exchange),
            optimizer=optimizer,
            accumulate=accumulate,
        )
        for rank in range(size)
    ]

    def train(rank):
        found[rank.world.rank] = rank.train()

    threads = [threading.Thread(target=train, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [(e["nll"], e["norm"]) for e in read_events(alone.draft.events.path)]
    for rank in ranks:
        assert_same_weights(alone.model, rank.model)
        logged = [(e["nll"], e["norm"]) for e in read_events(rank.draft.events.path)]
        assert logged == [pytest.approx(pair, abs=2e-6) for pair in expected]
        assert rank.world.sums == 2 * STEPS  # targets and NLL
    assert all(found[rank]["tokens"] == facts["tokens"] for rank in range(size))


def test_dropout_of_two_processes_is_that_of_twice_the_accumulation(corpus, tmp_path):
    source = Uneven(corpus)
    alone = trainer(corpus, tmp_path, source, accumulate=4)
    pair = [
        trainer(corpus, tmp_path, source, world=Rank(rank, Exchange(2)), accumulate=2)
        for rank in range(2)
    ]
    for step in range(5):
        assert [alone._dropout_seed(step, micro) for micro in range(4)] == [
            rank._dropout_seed(step, micro) for rank in pair for micro in range(2)
        ]


def test_rows_that_processes_cannot_share_are_refused_before_any_work(corpus, tmp_path):
    made = trainer(corpus, tmp_path, Uneven(corpus), world=Rank(0, Exchange(4)), accumulate=4)
    with pytest.raises(RequestError, match="batch 8 cannot be cut into 4 equal pieces for each of"):
        made.train()


def test_a_step_without_targets_is_refused(corpus, tmp_path):
    class Nothing(Uneven):
        def batch(self, step, rows=slice(None), rank=0, world=1):
            batch = super().batch(step, rows, rank, world)
            if step < 1:
                return batch
            return replace(batch, targets=torch.full_like(batch.targets, IGNORE), real_targets=0)

    with pytest.raises(FlyweightError, match="step 2 has no target to learn from"):
        trainer(corpus, tmp_path, Nothing(corpus)).train()
