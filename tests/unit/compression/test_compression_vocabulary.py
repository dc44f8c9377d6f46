"""A decoder without the rows that a text never uses gives the same numbers for the others."""

from typing import Any

import pytest
import torch

from flyweight.compression.vocabulary import with_rows
from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model.build import build

FIELDS = {"vocab_size": 40, "context": 16, "dim": 16, "layers": 1, "attention": {"heads": 2}}
KEPT = [0, 3, 4, 17, 39]


@pytest.mark.parametrize(
    "fields",
    [{}, {"embedding": {"tied": False}}, {"embedding": {"rank": 4}}, {"position": "learned"}],
    ids=str,
)
def test_logits_of_kept_tokens_are_the_same_numbers(fields: dict[str, Any]) -> None:
    model = build(ModelConfig.model_validate({**FIELDS, **fields}), 3).eval()
    small = with_rows(model, KEPT)
    assert small.config.vocab_size == len(KEPT)
    new = torch.tensor([[0, 1, 2, 3, 4, 1]])
    expected = model(torch.tensor(KEPT)[new])[..., KEPT]
    torch.testing.assert_close(small(new), expected, rtol=1e-5, atol=1e-6)


def test_a_table_of_pairs_is_refused() -> None:
    embedding = {"bigram": {"kind": "hashed", "buckets": 8}}
    model = build(ModelConfig.model_validate({**FIELDS, "embedding": embedding}))
    with pytest.raises(RequestError, match="bigram table"):
        with_rows(model, KEPT)
