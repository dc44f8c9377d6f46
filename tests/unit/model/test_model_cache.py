from typing import Any

import pytest
import torch

from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model.cache import KVCache
from flyweight.model.decoder import Decoder


def decoder(seed: int = 0, **fields: Any) -> Decoder:
    return Decoder(
        ModelConfig.model_validate(
            {"vocab_size": 9, "context": 8, "dim": 16, "layers": 2, **fields}
        ),
        seed,
    )


def test_a_full_cache_refuses_and_stays_as_it_was() -> None:
    model = decoder()
    cache = model.new_cache(1, 5)
    model(torch.zeros(1, 4, dtype=torch.long), cache)
    with pytest.raises(RequestError, match=r"4 \+ 2 tokens do not fit its length 5"):
        model(torch.zeros(1, 2, dtype=torch.long), cache)
    assert cache.length == 4
    model(torch.zeros(1, 1, dtype=torch.long), cache)


def test_cache_slots_and_bytes() -> None:
    model = decoder(attention={"heads": 4, "kv_heads": 2, "head_dim": 6}).double()
    cache = model.new_cache(3, 5)
    assert isinstance(cache, KVCache)
    assert [keys.shape for keys in cache.keys] == [(3, 2, 5, 6)] * 2
    assert cache.keys[0].dtype == torch.float64
    assert cache.nbytes() == 2 * 2 * 3 * 2 * 5 * 6 * 8
