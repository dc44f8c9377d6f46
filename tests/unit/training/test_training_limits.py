import pytest

from flyweight.config import schema
from flyweight.errors import RequestError
from flyweight.training.limits import Limits
from flyweight.training.step_cost import StepCost

COST = StepCost.constant(1000)


def test_no_limit_is_refused():
    with pytest.raises(RequestError, match=r"stages\.x\.train: no limit"):
        Limits.of(schema.Train(), 64, COST, "stages.x")


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"steps": 12}, 12),
        ({"tokens": 65}, 2),
        ({"flops": 7000}, 7),
        ({"steps": 9, "tokens": 128, "flops": 7000}, 2),
        ({"epochs": 2}, 7),
        ({"epochs": 0.5, "steps": 9}, 2),
        ({"time": "3s"}, None),
    ],
)
def test_counts_come_down_to_steps(limits, steps):
    assert Limits.of(schema.Train.model_validate(limits), 64, COST, "x", epoch=49).steps == steps


def test_the_nearest_limit_says_how_much_is_done_and_what_ends_a_run():
    limits = Limits(steps=10, seconds=4.0)
    assert limits.fraction_done(5, 1.0) == 0.5
    assert limits.fraction_done(5, 3.0) == 0.75
    assert limits.fraction_done(11, 9.0) == 1.0
    assert (limits.reason(10), limits.reason(9)) == ("steps", "time")
    assert Limits(None, 4.0).reason(10) == "time"


def test_epochs_of_an_unknown_size_are_no_limit():
    assert Limits.of(schema.Train(epochs=2, time="3s"), 64, COST, "x").steps is None
    with pytest.raises(RequestError, match="no limit; give steps, tokens, epochs"):
        Limits.of(schema.Train(epochs=2), 64, COST, "x")
