"""What is told where a budget is spent, and what is left of it."""

import mmap
import sys
import time

import pytest

from flyweight.config import schema
from flyweight.core import machine
from flyweight.store import budget
from flyweight.store.budget import BudgetSpent, Meter


def meter(shared=False, **limits):
    return Meter(
        schema.Budget.model_validate({"over": "stop", **limits}),
        shared=shared,
        started=time.monotonic() - 5,
    )


def test_a_larger_limit_is_advised_only_where_it_goes_on():
    with pytest.raises(
        BudgetSpent, match=r"a larger budget\.time and the same command go on from here"
    ):
        meter(time="2s").observe("x")
    with pytest.raises(
        BudgetSpent, match=r"budget\.over=warn and the same command go on.* begin again"
    ):
        meter(True, time="2s").observe("x")
    with pytest.raises(BudgetSpent, match=r"a larger budget\.flops and the same command"):
        meter(True, flops=10).observe("x", flops=11)


def test_what_ends_itself_is_not_stopped_by_the_clock_but_by_other_limits():
    meter(time="2s").observe("x", ends_itself=True)
    with pytest.raises(BudgetSpent, match=r"budget\.flops"):
        meter(time="2s", flops=10).observe("x", flops=11, ends_itself=True)


def test_a_training_has_what_is_left_but_never_under_half_of_its_share():
    found = meter(time="60s")
    assert found.training_left(20) == 20
    found.training_ends = 20.0
    assert 14 < found.training_left(20) <= 15
    found.training_ends = 1.0
    assert found.training_left(20) == 10


def test_being_late_is_seen_once():
    found = meter(time="2s", over="stop")
    assert found.late_now() and not found.late_now()
    assert not meter(time="9s").late_now()
    assert not meter().late_now()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can lower the high-water mark")
def test_a_peak_between_two_looks_is_seen_and_belongs_to_its_stage():
    found = meter()
    found.begin_stage()
    # memory of its own mapping: a heap may have so much free already that nothing is added
    with mmap.mmap(-1, 80_000_000) as held:
        held[::4096] = bytes(len(held[::4096]))
    found.note()
    assert found.stage_peak_bytes > 70e6
    peak = found.peak_bytes
    found.begin_stage()
    found.note()
    assert found.stage_peak_bytes < peak - 50e6
    assert found.peak_bytes == peak


def test_a_process_that_trained_before_counts_the_libraries_again(monkeypatch):
    monkeypatch.setattr(budget, "_before_the_first", lambda: 500)
    monkeypatch.setattr(machine, "resident_bytes", lambda: 500 + budget.LIBRARIES)
    assert meter().baseline_bytes == 500
    monkeypatch.setattr(machine, "resident_bytes", lambda: 600 + budget.LIBRARIES)
    assert meter().baseline_bytes == 600
    monkeypatch.setattr(machine, "resident_bytes", lambda: 1)
    assert meter().baseline_bytes == 1, "never more than is held"


def test_the_peak_of_an_earlier_training_counts_and_stops_nothing():
    found = meter(memory="900GB")
    found.note_earlier(2 * 10**12)
    assert found.peak_bytes == 2 * 10**12 and not found.past_memory()
    found.note_earlier(1)
    assert found.peak_bytes == 2 * 10**12


def test_without_a_mark_memory_is_looked_at(monkeypatch):
    monkeypatch.setattr(machine, "reset_high_water", lambda: False)
    monkeypatch.setattr(machine, "resident_bytes", lambda: 7_000_000)
    found = meter(memory="5MB")
    found.baseline_bytes = 1_000_000
    found.begin_stage()
    assert found.past_memory() and found.stage_peak_bytes == 6_000_000
    with pytest.raises(BudgetSpent, match=r"5 MB is spent \(6 MB\) in x.*flyweight plan"):
        found.observe("x")
    assert not meter(memory="5MB", over="warn").past_memory()


def test_what_does_not_train_is_held_to_memory_with_advice_of_its_own():
    meter(memory="900GB").hold_memory("x", "less")
    meter().hold_memory("x", "less")
    found = meter(memory="1B", over="warn")
    found.baseline_bytes = 0
    found.hold_memory("x", "less")
    assert found.passed_memory() is (found.stage_peak_bytes > 1)
    found = meter(memory="1B")
    found.baseline_bytes = 0
    with pytest.raises(BudgetSpent, match=r"budget\.memory: 1 B is spent .* in x\..*; fewer rows"):
        found.hold_memory("x", "fewer rows")
