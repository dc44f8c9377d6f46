"""What is told where a budget is spent, and what is left of it."""

import time

import pytest

from flyweight.config import schema
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
