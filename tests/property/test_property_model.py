"""What must hold for every decoder, over a pairwise sample of valid configs and random ones beside it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_identities import IDENTITIES, cached, difference
from model_sample import CONFIGS, FIELDS, ROWS, model_of, tokens_of

from flyweight.checkpoints import convert, read
from flyweight.config.schema import Deep
from flyweight.model.linear import Linear
from flyweight.spec.visits import visits

# Every fifth config in `make test`, all of them by hand: `pytest tests/property -m ""`, or
# `benchmarks/bench_identities.py`.
SOME = [
    pytest.param(index, marks=[] if index % 5 == 0 else [pytest.mark.slow])
    for index in range(len(CONFIGS))
]
every_config = pytest.mark.parametrize("index", SOME)


def test_sample_is_pairwise_and_large_enough() -> None:
    assert len(CONFIGS) >= 200
    assert sum(isinstance(config.thinking, Deep) for config in CONFIGS[::5]) >= 20
    seen = {
        (i, j, str(row[i]), str(row[j]))
        for row in ROWS
        for i, j in combinations(range(len(row)), 2)
    }
    names = list(FIELDS)
    wanted = {
        (i, j, str(a), str(b))
        for i, j in combinations(range(len(names)), 2)
        for a in FIELDS[names[i]]
        for b in FIELDS[names[j]]
    }
    assert wanted == seen


@every_config
@pytest.mark.parametrize("identity", IDENTITIES)
def test_identity(identity: str, index: int, tmp_path: Any) -> None:
    measure, bound = IDENTITIES[identity]
    assert measure(index, tmp_path) <= bound


@every_config
def test_cached_equals_uncached_in_float32(index: int, tmp_path: Any) -> None:
    """Float64 says whether it is the same function.

    Post-norm stacks that think amplify rounding: up to float32's own.
    """
    config, tokens, bound = CONFIGS[index], tokens_of(index), 1e-5
    if config.norm.placement == "post" and isinstance(config.thinking, Deep):
        with torch.no_grad():
            exact = model_of(index, torch.float64)(tokens)
            bound += 2 * difference(model_of(index, torch.float32)(tokens).double(), exact)
    assert cached(index, tmp_path, torch.float32) <= bound


@every_config
@torch.no_grad()
def test_our_own_checkpoint_comes_back_to_the_bit(index: int, tmp_path: Any) -> None:
    model = model_of(index, torch.float32)
    convert.write(*convert.checkpoint_files(model.config, model.state_dict(), None), tmp_path)
    config, state = convert.decoder(read.read(tmp_path))
    wanted = model.state_dict()
    assert config == model.config and state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@every_config
def test_every_trainable_weight_gets_a_gradient(index: int) -> None:
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()
    missing = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    config = CONFIGS[index]
    # A bias on the keys moves all scores of a query alike; with q/k norm or rotation it does show.
    plain = not config.attention.qk_norm and config.position.kind != "rope"
    allowed = ["attention.k.bias"] if plain else []
    # A first place that reads the embedding in every pass has a memory that is mixed with what it
    # is already.
    restarts = isinstance(config.thinking, Deep) and config.thinking.input == "embedding"
    if restarts and {visit.stack_index for visit in visits(config) if visit.layer == 0} == {0}:
        allowed.append("blocks.0.rate.weight")
    assert not [name for name in missing if not name.endswith(tuple(allowed))]
    assert all(layer.weight.requires_grad for layer in model.modules() if isinstance(layer, Linear))
