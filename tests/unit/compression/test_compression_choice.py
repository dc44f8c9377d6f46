"""Which try is taken within a limit, the Pareto front, and the plain way beside it."""

from __future__ import annotations

import pytest

from flyweight.compression.choice import choose, choose_plain, front
from flyweight.config.limits import Limit
from flyweight.errors import FlyweightError
from flyweight.records.compression import Tried
from flyweight.records.metric import Metric

BASE = 2.0


def tried(
    name: str, bytes: int, bits: float, speed: float | None = None, plain: bool = False
) -> Tried:
    metric = Metric.exact(bits, "bits/byte")
    return Tried(name=name, id=name, bytes=bytes, bits_per_byte=metric, speed=speed, plain=plain)


TRIES = [
    tried("int8", 100, 2.001, 1.5, plain=True),
    tried("int4", 60, 2.05, 1.8, plain=True),
    tried("int4-gptq", 60, 2.01, 1.8),
    tried("int3", 45, 2.3, 1.7, plain=True),
    tried("parts60", 50, 2.015, 2.5),
    tried("worse", 55, 2.4, 1.6),
]


def test_the_front_has_what_nothing_beats_from_few_bytes_to_many() -> None:
    no_speed = [one.model_copy(update={"speed": None}) for one in TRIES]
    assert front(no_speed) == ("int3", "parts60", "int4-gptq", "int8")
    # A faster one stays, however many bits it loses.
    assert "fast" in front([*TRIES, tried("fast", 100, 3.0, 9.0)])
    same = [tried("a", 10, 1.0), tried("b", 10, 1.0)]
    assert front(same) == ("a", "b")


@pytest.mark.parametrize(
    ("limit", "chosen", "plain"),
    [
        (Limit("bytes", 60), "int4-gptq", ("int4", True)),
        (Limit("bytes", 50), "parts60", ("int3", True)),
        (Limit("bytes", 1000), "int8", ("int8", True)),
        (Limit("speed", 1.8), "int4-gptq", ("int4", True)),
        (Limit("speed", 2.5), "parts60", ("int3", False)),
        (Limit("loss", 0.01), "parts60", ("int3", True)),
        (Limit("loss", 0.002), "int8", ("int8", True)),
        (Limit("loss", 0.2), "int3", ("int3", True)),
    ],
)
def test_the_limit_and_validation_choose(
    limit: Limit, chosen: str, plain: tuple[str, bool]
) -> None:
    best = choose(TRIES, limit, BASE)
    assert best.name == chosen
    beside, fits = choose_plain(TRIES, limit, best, BASE)
    assert (beside.name, fits) == plain


def test_of_equal_quality_the_smaller_is_taken() -> None:
    same = [tried("a", 20, 1.0), tried("b", 10, 1.0)]
    assert choose(same, Limit("bytes", 30), BASE).name == "b"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Limit("loss", 0.0001), "the nearest is int8, which costs 0.05 %"),
        (Limit("bytes", 10), "the nearest is int3: --bytes 45B"),
        (Limit("speed", 9), "the nearest is parts60, 2.5 times"),
    ],
)
def test_a_limit_that_nothing_meets_names_the_nearest(limit: Limit, message: str) -> None:
    with pytest.raises(FlyweightError, match=message):
        choose(TRIES, limit, BASE)
