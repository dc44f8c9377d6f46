from flyweight.config import schema
from flyweight.report import gather


def role(of, limit, spent):
    train = {"same_as": {"stage": "student", "of": of}, **limit}
    config = schema.Pretrain.model_validate({"stage": "pretrain", "data": {"corpus": "x"}, "train": train})
    return gather._role(config, {"tokens": 0, "flops": 0, "seconds": 0.0, "total_flops": 9e9, **spent})


def test_a_control_that_ended_early_is_called_what_it_had():
    assert role("total_flops", {"flops": 1000}, {"flops": 1003}) == "alone, total FLOPs of student"
    assert role("total_flops", {"flops": 1000}, {"flops": 180}) == "alone, 18 % of the total FLOPs of student"
    assert role("tokens", {"tokens": 1000}, {"tokens": 940}) == "alone, 94 % of the tokens of student"
    assert role("seconds", {"time": "10s"}, {"seconds": 10.2}) == "alone, seconds of student"
