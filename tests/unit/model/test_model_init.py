from typing import Any

import pytest
import torch

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder


def decoder(seed: int = 0, **fields: Any) -> Decoder:
    return Decoder(
        ModelConfig.model_validate(
            {"vocab_size": 9, "context": 8, "dim": 16, "layers": 2, **fields}
        ),
        seed,
    )


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    same, again, other = decoder(3).state_dict(), decoder(3).state_dict(), decoder(4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["embedding.tokens.weight"], other["embedding.tokens.weight"])
    assert not torch.equal(same["blocks.0.attention.q.weight"], same["blocks.1.attention.q.weight"])


def test_output_projections_are_damped_or_zero() -> None:
    for zero in (False, True):
        state = decoder(dim=96, init={"std": 0.1, "zero_out": zero}).state_dict()
        assert state["blocks.0.attention.q.weight"].std().item() == pytest.approx(0.1, rel=0.05)
        for name in ("attention.out", "mlp.down"):
            assert state[f"blocks.1.{name}.weight"].std().item() == pytest.approx(
                0 if zero else 0.1 / 4**0.5, rel=0.05
            )


def test_packed_layers_start_from_the_same_numbers_as_dense_ones() -> None:
    dense, packed = decoder(), decoder(linears={"*": "int8"})
    step = dense.embedding.tokens.dense().abs().max() / 127
    assert (packed.embedding.tokens.dense() - dense.embedding.tokens.dense()).abs().max() <= step
    assert dict(packed.named_parameters()).keys() == {
        name for name, _ in dense.named_parameters() if "norm" in name
    }
