"""What is told where a budget is spent, and what is left of it."""

import math
import time

import pytest

from flyweight.config import schema
from flyweight.core.budget import BudgetSpent, Meter


def meter(shared=False, **limits):
    return Meter(schema.Budget.model_validate({"over": "stop", **limits}), shared=shared, started=time.monotonic() - 5)


def test_a_larger_limit_is_advised_only_where_it_goes_on():
    with pytest.raises(BudgetSpent, match=r"a larger budget\.time and the same command go on from here"):
        meter(time="2s").observe("x")
    with pytest.raises(BudgetSpent, match=r"budget\.over=warn and the same command go on.* begin again"):
        meter(True, time="2s").observe("x")
    with pytest.raises(BudgetSpent, match=r"a larger budget\.flops and the same command"):
        meter(True, flops=10).observe("x", flops=11)


def test_what_is_left_is_that_of_a_limit_that_stops():
    assert meter().left() == meter(time="9s", over="warn").left() == math.inf
    assert 3 < meter(time="9s").left() <= 4
    assert meter(time="2s").left() == 0
