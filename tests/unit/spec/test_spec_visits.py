from typing import Any

import pytest

from flyweight.config.schema import ModelConfig
from flyweight.spec import flops
from flyweight.spec.visits import Visit, slots, stack_size, visits


def config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"vocab_size": 10, "context": 8, "dim": 16, "layers": 3, **fields}
    )


def layers(**fields: Any) -> list[int]:
    return [visit.layer for visit in visits(config(**fields))]


def test_every_layer_is_visited_once_in_order() -> None:
    assert visits(config()) == (Visit(0), Visit(1, stack_index=1), Visit(2, stack_index=2))


def test_orders_of_sharing() -> None:
    assert layers(sharing="repeat") == [0, 0, 1, 1, 2, 2]
    assert layers(sharing="cycle") == [0, 1, 2, 0, 1, 2]
    assert layers(layers=1, sharing={"kind": "all", "times": 4}) == [0, 0, 0, 0]
    assert layers(layers=4, sharing={"kind": "span", "span": [1, 2], "times": 3}) == [
        0,
        1,
        2,
        1,
        2,
        1,
        2,
        3,
    ]
    turns = [
        visit.repeat_index
        for visit in visits(config(layers=4, sharing={"kind": "span", "span": [1, 2], "times": 3}))
    ]
    assert turns == [0, 0, 0, 1, 1, 2, 2, 0]


def test_before_a_loop_is_switched_on_layers_keep_their_places() -> None:
    late = config(layers=4, sharing={"kind": "span", "span": [1, 2], "times": 2, "loop_from": 0.4})
    assert [(visit.layer, visit.stack_index) for visit in visits(late, looped=False)] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 5),
    ]
    assert stack_size(late) == 6
    assert flops.forward_flops(late, 8, looped=False) == flops.forward_flops(config(layers=4), 8)


def test_passes_of_thinking_and_their_keys() -> None:
    own = visits(config(layers=2, thinking={"passes": 2}))
    assert [(visit.pass_, visit.layer, visit.keys_per_token) for visit in own] == [
        *((0, 0, 1), (0, 1, 1)),
        *((1, 0, 2), (1, 1, 2)),
        *((2, 0, 2), (2, 1, 2)),
    ]
    # Where a pass begins with the embedding, nothing reads what the last place of the one before
    # puts out.
    first = visits(
        config(layers=2, thinking={"passes": 1, "memory": "first", "input": "embedding"})
    )
    assert [visit.keys_per_token for visit in first] == [1, 0, 2, 2]
    assert [
        visit.keys_per_token
        for visit in visits(config(layers=2, thinking={"passes": 1, "memory": "first"}))
    ] == [1, 2, 2, 2]
    assert slots(config(layers=2, thinking={"passes": 0, "memory": "first"})) == (1, 2)
    assert slots(config(layers=2, thinking={"passes": 0})) == (1, 1)


@pytest.mark.parametrize("thinking", ["none", {"passes": 2}])
def test_sharing_costs_compute_and_cache_but_no_parameters(thinking: Any) -> None:
    once, twice = config(thinking=thinking), config(thinking=thinking, sharing="repeat")
    assert flops.parameters(once).unique == flops.parameters(twice).unique
    assert flops.forward_flops(twice, 8) > 1.5 * flops.forward_flops(once, 8)
    assert flops.kv_bytes_per_token(twice) > flops.kv_bytes_per_token(once)
