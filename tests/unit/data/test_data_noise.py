"""Noisy inputs: what is exchanged, for what, and that nothing but the row's number decides it."""

import numpy as np
import pytest
import torch

from flyweight.config import schema
from flyweight.data.corpus import Split
from flyweight.data.noise import NoisyInputs
from flyweight.data.shards import Tokens
from flyweight.data.windows import Windows

T, VOCAB = 32, 50


def split(parts=3):
    """A text in which token 7 stands everywhere but in one place of ten, and 8 never."""
    random = np.random.default_rng(0)
    ids = np.where(random.random(3000) < 0.9, 7, random.integers(9, VOCAB, 3000)).astype(np.uint16)
    return Split("train", Tokens(np.array_split(ids, parts)), np.zeros(1, np.int64), 3000, 3000, 0)


def noisy(rate=0.3, batch=8, seed=0, parts=3):
    text = split(parts)
    return NoisyInputs(Windows(text, T, batch, 0), text.tokens, rate, batch, seed)


def test_targets_and_inputs_stay_and_tokens_come_as_often_as_they_stand_in_the_text():
    source, exchanged, places = noisy(rate=0.5, batch=64), [], 0
    for step in range(12):
        batch, plain = source.batch(step), source.source.batch(step)
        assert torch.equal(batch.inputs, plain.inputs)
        assert torch.equal(batch.targets, plain.targets)
        assert batch.real_targets == plain.real_targets
        assert batch.learned_from is batch.noisy and plain.learned_from is plain.inputs
        exchanged.append(batch.noisy[batch.inputs != 7])
        places += (batch.inputs != batch.noisy).sum().item()
    read = torch.cat(exchanged)
    # Where another token than 7 stood, half are exchanged, of which nine in ten become 7.
    assert (read == 7).float().mean().item() == pytest.approx(0.45, abs=0.03)
    assert not (read == 8).any()
    assert places


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_so_many_are_exchanged_as_the_rate_says(rate):
    text = Split(
        "train",
        Tokens([np.arange(50_000, dtype=np.uint16)]),
        np.zeros(1, np.int64),
        1,
        1,
        0,
    )
    batch = NoisyInputs(Windows(text, 500, 40, 0), text.tokens, rate, 40, 0).batch(0)
    share = (batch.noisy != batch.inputs).float().mean().item()
    assert share == pytest.approx(rate, abs=0.01)


def test_pieces_processes_steps_and_batch_sizes_change_nothing():
    whole = noisy(batch=8)
    for step in (0, 3):
        read = whole.batch(step).noisy
        assert torch.equal(noisy(batch=8, parts=1).batch(step).noisy, read)
        for size in (1, 2, 4):
            pieces = [whole.batch(step, slice(n, n + size)).noisy for n in range(0, 8, size)]
            assert torch.equal(torch.cat(pieces), read)
        ranks = [whole.batch(step, slice(None), rank, 2).noisy for rank in range(2)]
        assert torch.equal(torch.cat(ranks), read)
        inner = whole.batch(step, slice(1, 3), 1, 2).noisy
        assert torch.equal(inner, read[5:7])
    smaller = noisy(batch=4)
    together = torch.cat([smaller.batch(6).noisy, smaller.batch(7).noisy])
    assert torch.equal(together, whole.batch(3).noisy)


def test_another_reading_and_another_seed_are_exchanged_elsewhere():
    source = noisy()
    first, other = source.batch(0), noisy(seed=1).batch(0)
    assert torch.equal(first.inputs, other.inputs)
    assert not torch.equal(first.noisy, other.noisy)
    changed = first.noisy != first.inputs
    assert not torch.equal(changed, source.batch(1).noisy != source.batch(1).inputs)


def test_it_is_not_written_where_it_is_not_asked_for():
    assert "input_noise" not in schema.Train().model_dump()
    assert schema.Train.model_validate({"input_noise": 0.1}).model_dump()["input_noise"] == 0.1
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="input_noise"):
            schema.Train.model_validate({"input_noise": rate})
