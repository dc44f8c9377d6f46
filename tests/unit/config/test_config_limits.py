"""Limits of a compression: one at a time, with their units."""

from __future__ import annotations

from typing import Any

import pytest

from flyweight.config.limits import Limit, share_of
from flyweight.errors import RequestError


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"bytes": "40MB"}, Limit("bytes", 40_000_000)),
        ({"bytes": 4000}, Limit("bytes", 4000)),
        ({"speed": "2x"}, Limit("speed", 2.0)),
        ({"speed": 1.5}, Limit("speed", 1.5)),
        ({"loss": "1%"}, Limit("loss", 0.01)),
        ({"loss": 0.02}, Limit("loss", 0.02)),
    ],
)
def test_a_limit_is_read_with_its_unit(given: dict[str, Any], limit: Limit) -> None:
    assert Limit.of(**given) == limit


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "none is given"),
        ({"bytes": "1MB", "loss": "1%"}, "there are --bytes and --loss"),
        ({"bytes": "40"}, "--bytes: '40' is not a size"),
        ({"bytes": 0}, "more than nothing"),
        ({"speed": "1x"}, "itself is 1x as fast"),
        ({"speed": "0.5x"}, "itself is 1x as fast"),
        ({"speed": "fast"}, "not a factor"),
        ({"speed": "nan"}, "not a factor"),
        ({"loss": "-1%"}, "a share is from 0 to 100%"),
        ({"loss": -0.1}, "a share is from 0 to 100%"),
        ({"loss": "1"}, "not a share"),
        ({"loss": "0%"}, "every way loses something"),
    ],
)
def test_what_no_compression_can_mean_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Limit.of(**given)


def test_a_share_of_nothing_needs_no_unit() -> None:
    assert share_of("0", "--recover") == share_of(0, "--recover") == 0
    assert share_of("10%", "--recover") == pytest.approx(0.1)
