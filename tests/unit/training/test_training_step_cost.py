import pytest

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.spec import flops as cost
from flyweight.training.step_cost import StepCost


def looped(**fields):
    sharing = {"kind": "span", "span": [1, 2], "times": 3, "loop_from": 0.4}
    return ModelConfig.model_validate(
        {"vocab_size": 20, "context": 8, "dim": 16, "layers": 4, "sharing": sharing, **fields}
    )


@pytest.mark.parametrize("switch", [0.1, 1 / 3, 0.4, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50, 1000])
def test_a_total_is_the_sum_of_the_steps(switch, steps):
    step = StepCost(unlooped=3, looped=10, switch_at=switch)
    assert step.total(steps) == sum(step.at(done / steps) for done in range(steps))


@pytest.mark.parametrize("switch", [0.0, 0.3, 0.4])
def test_steps_are_the_fewest_that_reach_a_number_of_flops(switch):
    step = StepCost(unlooped=3, looped=10, switch_at=switch)
    for wanted in range(1, 300):
        steps = step.steps(wanted)
        assert step.total(steps) >= wanted
        assert steps == 1 or step.total(steps - 1) < wanted


def test_a_step_costs_model_teacher_and_optimizer():
    model, train = looped(), schema.Train(batch=4)
    step = StepCost.of(model, train, 8, teacher=1000)
    same = 4 * 1000 + cost.optimizer_flops(model, train.optimizer)
    assert step.looped == 4 * cost.training_flops(model, 8) + same
    assert step.unlooped == 4 * cost.training_flops(looped(sharing="none"), 8) + same
    assert step.switch_at == 0.4
    assert step.mean == pytest.approx(step.total(1000) / 1000)


def test_finished_weights_keep_their_loop():
    step = StepCost.of(looped(), schema.Train(), 8, fresh=False)
    assert step.unlooped == step.looped and step.is_looped(0.0)
