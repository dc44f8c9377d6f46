from typing import Any

import pytest
from pydantic import ValidationError

from flyweight.config.schema import ModelConfig

BASE: dict[str, Any] = {"vocab_size": 50, "context": 8, "dim": 16, "layers": 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sharing": {"kind": "all", "times": 4}}, r"sharing\.all: .* layers: 1 and not 3"),
        (
            {"sharing": {"kind": "span", "span": [1, 3]}},
            r"sharing\.span: layer 3 is outside the model's 3 layers",
        ),
        (
            {"sharing": {"kind": "span", "span": [2, 1]}},
            r"sharing\.span: it ends with layer 1 before it begins with layer 2",
        ),
        ({"sharing": {"kind": "span", "span": [0, 1], "loop_from": 1.0}}, "less than 1"),
        ({"sharing": {"kind": "none", "index": True}}, "Extra inputs"),
        (
            {"layers": 0, "sharing": {"kind": "repeat", "index": True}},
            r"sharing\.index: there are no layers",
        ),
        ({"layers": 0, "thinking": {"passes": 1}}, "thinking: a model without layers"),
        (
            {"thinking": {"passes": 1, "input": "embedding"}},
            r"thinking\.input: passes that begin .* compute the same each time",
        ),
        (
            {"layers": 1, "thinking": {"memory": "first", "input": "embedding"}},
            "thinking: the only layer reads the embedding",
        ),
        (
            {"thinking": {"passes": 1, "learned": True}},
            r"thinking\.learned: with passes 1 and memory own no memory is ever",
        ),
        ({"thinking": {"passes": 2, "rate": 1.0}}, "less than 1"),
        ({"layers": 0, "norm": {"final": False}}, r"norm\.final: without layers"),
        ({"mlp": {"kind": "relu", "hidden": 9, "rank": 10}}, r"mlp\.rank: 10 is larger than .* 9"),
        ({"attention": {"window": 0}}, "greater than 0"),
        ({"attention": {"sinks": 2}}, r"attention\.sinks: 2 sinks need attention\.window"),
        (
            {"attention": {"window": 4, "sinks": 4}},
            r"attention\.sinks: 4 is not smaller than attention\.window 4",
        ),
        (
            {"layers": 0, "attention": {"window": 4}},
            r"attention\.window: a model without layers has no attention",
        ),
        ({"embedding": {"rank": 17}}, r"embedding\.rank: 17 is larger than dim 16"),
        (
            {"vocab_size": 5, "embedding": {"rank": 7}},
            r"embedding\.rank: 7 is larger than vocab_size 5",
        ),
        (
            {"layers": 9999, "sharing": {"kind": "cycle", "times": 999}},
            "9,989,001 uses of layers; 100,000 are the most",
        ),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({**BASE, **fields})


def test_all_reasons_at_once() -> None:
    fields = {
        "sharing": {"kind": "span", "span": [5, 4]},
        "embedding": {"rank": 99},
        "mlp": {"rank": 99},
        "norm": {"final": False},
    }
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({**BASE, "layers": 0, **fields})
    text = str(caught.value)
    assert all(
        part in text
        for part in ("it ends with layer 4", "outside", "embedding.rank", "mlp.rank", "norm.final")
    )


def test_a_learned_rate_needs_a_memory_that_changes() -> None:
    ModelConfig.model_validate({**BASE, "thinking": {"passes": 2, "learned": True}})
    ModelConfig.model_validate(
        {**BASE, "thinking": {"passes": 1, "learned": True, "memory": "first"}}
    )
    with pytest.raises(ValidationError, match=r"thinking\.learned"):
        ModelConfig.model_validate({**BASE, "thinking": {"passes": 0, "learned": True}})


def test_one_number_sets_the_three_dropouts_it_always_set() -> None:
    assert ModelConfig.model_validate({**BASE, "dropout": 0.2}).dropout.model_dump() == {
        **dict.fromkeys(("embedding", "attention", "residual"), 0.2),
        "mlp": 0.0,
    }


def test_a_window_that_is_off_is_not_written() -> None:
    plain = ModelConfig.model_validate(BASE)
    assert not {"window", "sinks"} & plain.model_dump(mode="json")["attention"].keys()
    fields = {**BASE, "attention": {"window": 4, "sinks": 1}}
    windowed = ModelConfig.model_validate(fields).resolved()
    dumped = windowed.model_dump(mode="json")["attention"]
    assert (dumped["window"], dumped["sinks"]) == (4, 1)
    assert ModelConfig.model_validate(windowed.model_dump(mode="json")) == windowed
