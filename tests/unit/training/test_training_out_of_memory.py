"""Where memory runs out, a step is computed in smaller pieces and stays the same update."""

import threading
import weakref
from dataclasses import replace

import pytest
import torch
from unit.training.test_training_trainer import Interrupted
from unit.training.test_training_world import Exchange, Rank
from world_fixture import BATCH, STEPS, Uneven, decoder, packed, trainer

from flyweight.config import schema
from flyweight.core import machine
from flyweight.core.events import read_events
from flyweight.errors import FlyweightError
from flyweight.store.budget import BudgetSpent, Meter
from flyweight.training import out_of_memory
from flyweight.training.objectives import NextTokenObjective

PLAIN = NextTokenObjective(schema.NextToken())
EVERYWHERE = {"residual": 0.2, "mlp": 0.2, "attention": 0.2, "embedding": 0.2}
ON_A_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("corpus"))


class Fails:
    """The plain objective, for which memory runs out at some of its calls, in either pass."""

    def __init__(self, *calls, error=torch.OutOfMemoryError, backward=False):
        self.calls, self.error, self.backward = calls, error, backward
        self.rows, self.held, self.alive = [], None, []

    def __call__(self, model, batch):
        self.rows.append(len(batch.inputs))
        self.alive.append(self.held is not None and self.held() is not None)
        if len(self.rows) not in self.calls and "always" not in self.calls:
            return PLAIN(model, batch)
        made = torch.zeros(1000)
        self.held = weakref.ref(made)
        if not self.backward:
            raise self.error("out of memory")
        summed = PLAIN(model, batch)

        def fail(_, made=made):
            raise self.error("out of memory")

        summed.loss.register_hook(fail)
        return summed


def trained(corpus, folder, objective=PLAIN, **options):
    """Return a training's facts, weights and objective."""
    made = trainer(
        corpus,
        folder,
        Uneven(corpus),
        objective,
        model=options.pop("model", None) or decoder(corpus, dropout=EVERYWHERE),
        **options,
    )
    return made.train(), dict(made.model.named_parameters())


def assert_close(first, second):
    for name, value in first.items():
        assert (value - second[name]).norm() <= 1e-6 * value.norm(), name


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError, MemoryError, lambda _: RuntimeError(ON_A_CPU)]
)
def test_from_the_first_step_on_it_is_the_training_that_accumulates(
    corpus, tmp_path, error, backward
):
    fails = Fails(1, error=error, backward=backward)
    facts, weights = trained(corpus, tmp_path / "halved", fails)
    asked, expected = trained(corpus, tmp_path / "asked", accumulate=2)
    assert fails.rows == [8] + [4, 4] * STEPS
    assert not any(fails.alive), "what the failed attempt had made is gone before the next"
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert facts["accumulate_used"] == asked["accumulate_used"] == 2
    events = [e for e in read_events(tmp_path / "halved/events.jsonl") if e["event"] == "halved"]
    assert [(e["step"], e["accumulate"], e["rows"]) for e in events] == [(1, 2, 4)]


@pytest.mark.parametrize("calls", [(2,), (3,), (2, 3, 5), (1, 4)])
def test_in_a_later_step_nothing_is_lost(corpus, tmp_path, calls):
    facts, weights = trained(corpus, tmp_path / "halved", Fails(*calls))
    whole, expected = trained(corpus, tmp_path / "whole")
    assert_close(weights, expected)
    assert facts["accumulate_used"] == 2 ** len(calls)
    assert {key: facts[key] for key in ("steps", "tokens", "flops")} == {
        key: whole[key] for key in ("steps", "tokens", "flops")
    }


def test_the_bits_are_those_of_going_on_from_the_last_step_in_more_pieces(corpus, tmp_path):
    _, weights = trained(corpus, tmp_path / "halved", Fails(2))
    made = trainer(
        corpus, tmp_path / "b", Uneven(corpus), model=decoder(corpus, dropout=EVERYWHERE)
    )
    state = made.start()
    stops = replace(made, limits=replace(made.limits, steps=STEPS))
    made.step(state)
    state.progress.accumulate = 2
    stops.run(state)
    for name, value in made.model.named_parameters():
        assert torch.equal(value, weights[name]), name


def test_a_resumed_training_begins_with_the_pieces_it_had(corpus, tmp_path):
    options = {"checkpoint": "1ms"}
    source = Interrupted(Uneven(corpus), 2)
    made = trainer(corpus, tmp_path, source, Fails(1), **options)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    again = Fails()
    made = trainer(corpus, tmp_path, Uneven(corpus), again, **options)
    assert made.train()["accumulate_used"] == 2
    assert set(again.rows) == {4}


def test_where_a_row_does_not_fit_it_ends_with_advice(corpus, tmp_path):
    fails = Fails("always")
    with pytest.raises(
        FlyweightError, match=r"one row does not fit: choose train\.memory\.recompute"
    ):
        trained(corpus, tmp_path, fails)
    assert fails.rows == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (
            {"on_oom": "stop"},
            r"toy: out of memory\. .*train\.accumulate=2, or choose train\.memory",
        ),
        ({"memory": {"step": "backward"}, "clip": 0.0}, r"cannot be repeated.*step=after"),
    ],
)
def test_what_cannot_or_may_not_be_halved_stops_at_once(corpus, tmp_path, options, advice):
    fails = Fails(1)
    with pytest.raises(FlyweightError, match=advice):
        trained(corpus, tmp_path, fails, **options)
    assert fails.rows == [8]


def test_out_of_memory_in_the_optimizer_smaller_pieces_are_no_help(corpus, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(FlyweightError, match=r"optimizer could not move.*states=int8"):
        trained(corpus, tmp_path)


def test_other_errors_pass(corpus, tmp_path):
    with pytest.raises(RuntimeError, match="sizes differ"):
        trained(corpus, tmp_path, Fails(1, error=lambda _: RuntimeError("sizes differ")))


def test_a_validation_that_does_not_fit_is_repeated_in_fewer_rows(corpus, tmp_path):
    asked = []

    def validate(tokens, rows):
        asked.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError
        return 1.0

    made = trainer(corpus, tmp_path, Uneven(corpus), validations=1)
    facts = replace(made, validate=validate).train()
    assert asked == [8, 4, 2]
    assert facts["accumulate_used"] == 4 and facts["best_nll"] == 1.0


def test_processes_halve_together(corpus, tmp_path):
    exchange, facts = Exchange(2), {}
    fails = [Fails(), Fails(2)]
    ranks = [
        trainer(corpus, tmp_path / str(rank), Uneven(corpus), fails[rank], Rank(rank, exchange))
        for rank in range(2)
    ]
    threads = [
        threading.Thread(target=lambda made=made: facts.update({made.world.rank: made.train()}))
        for made in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.rows for each in fails] == [[4, 4, *[2, 2] * 2]] * 2
    assert facts[0]["accumulate_used"] == facts[1]["accumulate_used"] == 2
    alone = trainer(corpus, tmp_path / "alone", Uneven(corpus))
    alone.train()
    for made in ranks:
        assert_close(dict(made.model.named_parameters()), dict(alone.model.named_parameters()))


@pytest.fixture
def held(monkeypatch):
    """Return what the process holds, as the meter sees it: set its only number."""
    bytes_held = [0]
    monkeypatch.setattr(machine, "reset_high_water", lambda: True)
    monkeypatch.setattr(machine, "high_water_bytes", lambda: bytes_held[0])
    monkeypatch.setattr("flyweight.training.trainer.SHOWN_EVERY", 0.0)
    return bytes_held


def limited():
    meter = Meter(schema.Budget.model_validate({"memory": "1MB"}), baseline_bytes=0)
    meter.begin_stage()
    return meter


@pytest.mark.parametrize("fits", [1, 2, 4])
def test_past_the_budget_micro_batches_are_halved(corpus, tmp_path, held, fits):
    class Holds(Fails):
        def __call__(self, model, batch):
            held[0] = 500_000 if len(batch.inputs) <= fits else 1_500_000
            return super().__call__(model, batch)

    made = trainer(corpus, tmp_path, Uneven(corpus), Holds(), steps=8)
    facts = replace(made, meter=limited()).train()
    assert facts["accumulate_used"] == BATCH // fits
    assert facts["memory_used"] == 1_500_000


@pytest.mark.parametrize("options", [{}, {"on_oom": "stop"}])
def test_past_the_budget_in_any_size_it_stops(corpus, tmp_path, held, options):
    held[0] = 2_000_000
    fails = Fails()
    made = trainer(corpus, tmp_path, Uneven(corpus), fails, steps=8, **options)
    with pytest.raises(BudgetSpent, match=r"budget\.memory: 1 MB is spent \(2 MB\) in toy.*plan"):
        replace(made, meter=limited()).train()
    assert set(fails.rows) == ({8} if options else {8, 4, 2, 1})


@pytest.mark.parametrize(
    ("accumulate", "rows", "expected"),
    [
        (1, 8, 2),
        (2, 8, 4),
        (8, 8, None),
        (1, 1, None),
        (1, 9, 3),
        (3, 9, 9),
        (2, 12, 4),
        (4, 20, 10),
    ],
)
def test_pieces_are_at_least_twice_as_many_and_equal(accumulate, rows, expected):
    assert out_of_memory.finer(accumulate, rows) == expected
