"""Losses are divided by the real targets of a whole step: over micro-batches and over processes."""

import json
import threading
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from world_fixture import (
    BATCH,
    CONTEXT,
    STEPS,
    Case,
    Uneven,
    decoder,
    objective_of,
    packed,
    run_processes,
    trainer,
)

from flyweight.config import schema
from flyweight.core.events import read_events
from flyweight.data.batch import IGNORE
from flyweight.data.windows import Windows
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.dropout import Dropout
from flyweight.training.objectives import NextTokenObjective
from flyweight.training.optimizers import build_optimizers, set_rates
from flyweight.training.world import ProcessGroup


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("corpus"))


def assert_same_weights(a, b):
    for (name, first), (_, second) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6, msg=name)


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
    objective, size = NextTokenObjective(schema.NextToken()), BATCH // accumulate
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
        assert rank.world.sums == 3 * STEPS  # targets, whether memory ran out, and NLL
    assert all(found[rank]["tokens"] == facts["tokens"] for rank in range(size))


EVERYWHERE = {"residual": 0.2, "mlp": 0.2, "attention": 0.2, "embedding": 0.2}
BACK = {
    "layers": 3,
    "attention": {"heads": 2, "value_residual": True, "gate": True},
    "skips": ["unet", "embedding"],
    "dropout": {**EVERYWHERE, "depth": 0.4},
}
DROPPED = {
    "everywhere": {},
    "shared": {"layers": 2, "sharing": {"kind": "cycle", "times": 2}},
    "thinking": {"layers": 2, "thinking": {"passes": 2, "memory": "first", "learned": True}},
    "window": {"attention": {"heads": 2, "kv_heads": 1, "window": 8, "sinks": 2}},
    "reading back": BACK,
    "adapters": {
        "adapters": [
            {"kind": "lora", "targets": ["attention.qkv", "mlp"], "r": 4, "dropout": 0.2},
            {"kind": "bottleneck", "dim": 4},
        ]
    },
}


def kept_masks(monkeypatch):
    """Return a list that gets a dict of masks by row for every micro-batch from now on."""
    found, whole = [], Dropout.dropped

    def mask(self, x):
        made = whole(self, x)
        if not found or self.first_row != found[-1][0]:
            found.append((self.first_row, []))
        found[-1][1].append(made)
        return made

    monkeypatch.setattr(Dropout, "dropped", mask)
    return found


@pytest.mark.parametrize("recompute", ["none", "blocks"])
@pytest.mark.parametrize("name", DROPPED)
def test_accumulation_changes_no_mask_of_dropout_and_no_gradient(
    corpus, tmp_path, monkeypatch, name, recompute
):
    found = kept_masks(monkeypatch)
    gradients, masks = [], []
    for accumulate in (1, 2, 4, 8):
        made = trainer(
            corpus,
            tmp_path / str(accumulate),
            Uneven(corpus),
            model=decoder(corpus, **{"dropout": EVERYWHERE, **DROPPED[name]}),
            accumulate=accumulate,
            memory={"recompute": recompute},
            clip=0.0,
        )
        made.model.train()
        with torch.no_grad():
            for parameter in made.model.parameters():  # adapters begin as nothing
                parameter.add_(0.02)
        found.clear()
        made._update(made.start())
        assert [first for first, _ in found] == [
            micro * BATCH // accumulate for micro in range(accumulate)
        ]
        masks.append([torch.cat(rows) for rows in zip(*(m for _, m in found), strict=True)])
        flat = [p.grad.flatten() for p in made.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(flat))
    assert len(masks[0]) > 4
    for other, drawn in zip(gradients[1:], masks[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(masks[0], drawn, strict=True))
        assert (other - gradients[0]).norm() < 1e-6 * gradients[0].norm()


class Share:
    """One process of two that are asked one after the other: threads would share a generator."""

    size = 2

    def __init__(self, rank, targets):
        self.rank, self.targets = rank, targets

    def sum(self, number):
        return self.targets if number else 0  # of memory that ran out

    def sum_gradients(self, parameters):
        pass


@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_drop_what_a_single_one_drops(corpus, tmp_path, monkeypatch, accumulate):
    source, masks, gradients = Uneven(corpus), [], []
    found = kept_masks(monkeypatch)
    for world in (None, *(Share(rank, source.batch(0).real_targets) for rank in range(2))):
        made = trainer(
            corpus,
            tmp_path / str(world and world.rank),
            source,
            world=world,
            model=decoder(corpus, dropout=EVERYWHERE),
            accumulate=accumulate if world else 1,
            clip=0.0,
        )
        made.model.train()
        made._update(made.start())
        gradients.append([parameter.grad for parameter in made.model.parameters()])
        masks += [m for _, m in found]
        found.clear()
    drawn = [torch.cat(rows) for rows in zip(*masks[1:], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(masks[0], drawn, strict=True))
    for whole, *shares in zip(*gradients, strict=True):
        torch.testing.assert_close(sum(shares), whole, rtol=1e-6, atol=1e-9)


CASES = [
    *(
        Case(accumulate=accumulate, optimizer=optimizer)
        for accumulate, optimizer in product((1, 2, 4), ("adamw", "muon"))
    ),
    Case(accumulate=2, objective="distillation", weights=True),
    Case(accumulate=2, dropout=0.3),
]
MUTE = Case(accumulate=2, mute=True)


@pytest.fixture(scope="module")
def gloo(tmp_path_factory):
    """Return the folder in which two processes have trained all cases, each in its rank's part."""
    folder = tmp_path_factory.mktemp("gloo")
    run_processes([*CASES, MUTE], folder)
    return folder


def weights_of(folder, case):
    return [load_file(folder / str(rank) / case.name / "weights.safetensors") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_over_gloo_make_the_update_of_one(corpus, gloo, tmp_path, case):
    alone = case.trainer(corpus, tmp_path)
    start = {name: value.clone() for name, value in alone.model.state_dict().items()}
    alone.train()
    first, second = weights_of(gloo, case)
    assert first.keys() == start.keys()
    for name, value in alone.model.state_dict().items():
        assert torch.equal(first[name], second[name]), name  # the processes agree to the bit
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=name)
        assert (value - start[name]).abs().max() > 1e-4, name
    expected = [(e["nll"], e["norm"]) for e in read_events(alone.draft.events.path)]
    assert len(expected) == STEPS
    for rank in range(2):
        events = read_events(gloo / str(rank) / case.name / "events.jsonl")
        logged = [(e["nll"], e["norm"]) for e in events]
        assert logged == [pytest.approx(pair, abs=2e-6) for pair in expected]


def test_processes_that_do_not_exchange_gradients_go_apart(gloo):
    first, second = weights_of(gloo, MUTE)
    assert all((first[name] - second[name]).abs().max() > 1e-4 for name in first)


def test_processes_sum_numbers_and_the_gradients_that_there_are(gloo):
    for rank in range(2):
        sums = json.loads((gloo / str(rank) / "sums.json").read_text())
        assert sums == {
            "count": 2**54 + 1,  # a float would have lost the 1
            "number": 0.5,
            "gradients": [[3.0, 3.0], [5.0, 5.0], None],
        }
        assert isinstance(sums["count"], int)


def test_a_group_that_nobody_has_set_up_is_refused():
    with pytest.raises(FlyweightError, match="call init_process_group before"):
        ProcessGroup()


def test_processes_do_not_end_at_a_time(corpus, tmp_path):
    timed = trainer(corpus, tmp_path, Uneven(corpus), world=Rank(0, Exchange(2)), time="1h")
    with pytest.raises(RequestError, match="2 processes cannot end at a time"):
        timed.train()


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
