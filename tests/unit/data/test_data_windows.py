from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from flyweight.data.corpus import Split
from flyweight.data.shards import Tokens
from flyweight.data.windows import Windows
from flyweight.errors import RequestError


def split(length: int, parts: int = 3) -> Split:
    ids = np.arange(length, dtype=np.uint32)
    return Split(
        "train", Tokens(np.array_split(ids, parts)), np.zeros(1, np.int64), length, length, 0
    )


def arrays(windows: Windows, step: int, *share) -> tuple[np.ndarray, np.ndarray]:
    batch = windows.batch(step, *share)
    assert batch.all_real and batch.real_targets == batch.targets.numel()
    return batch.inputs.numpy(), batch.targets.numpy()


def test_targets_are_the_next_tokens():
    windows = Windows(split(1000), 16, 4, seed=0)
    over_the_end = 0
    for step in range(40):
        inputs, targets = arrays(windows, step)
        assert inputs.shape == targets.shape == (4, 16)
        assert inputs.dtype == targets.dtype == np.int64
        assert np.array_equal(targets, inputs + 1)
        assert np.array_equal(inputs, (windows.starts(step)[:, None] + np.arange(16)) % 999)
        over_the_end += int(np.any(np.diff(inputs) < 0))
    assert over_the_end, "no window went over the end of the text"


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**63 - 1))
def test_an_epoch_draws_no_target_twice_and_leaves_less_than_a_window(
    length: int, context: int, batch: int, seed: int
):
    if length <= context:
        with pytest.raises(
            RequestError, match=f"has {length} tokens, but one window of context {context}"
        ):
            Windows(split(length), context, batch, seed)
        return
    windows = Windows(split(length), context, batch, seed)
    steps = -(-2 * windows.windows // batch)
    targets = np.concatenate(
        [arrays(windows, step)[1] for step in range(steps)]
    )  # (windows, context)
    for epoch in range(2):
        drawn = targets[epoch * windows.windows : (epoch + 1) * windows.windows].ravel()
        assert len(np.unique(drawn)) == len(drawn), "a target was drawn twice"
        assert drawn.min() >= 1, "the first token is no target"
        assert 0 <= length - 1 - len(drawn) < context


@pytest.mark.parametrize("length", [257, 300, 600, 700, 767, 1000, 5375])
def test_every_target_is_drawn_about_equally_often(length: int):
    context, size = 256, 8
    windows = Windows(split(length), context, size, seed=0)
    steps = 200 * -(-length // context)
    drawn = np.bincount(
        np.concatenate([arrays(windows, step)[1].ravel() for step in range(steps)]),
        minlength=length,
    )
    assert drawn[0] == 0
    expected = steps * size * context / (length - 1)
    assert expected > 1000
    # An epoch leaves out at most a third of these targets: 1.4 % of spread after some 2,000 epochs.
    assert np.all(np.abs(drawn[1:] / expected - 1) < 0.08)


def test_any_step_stands_alone():
    going = Windows(split(5000), 16, 8, seed=3)
    batches = [arrays(going, step) for step in range(100)]
    for step in (99, 0, 57, 38, 39):
        for ours, theirs in zip(
            arrays(Windows(split(5000), 16, 8, seed=3), step), batches[step], strict=True
        ):
            assert np.array_equal(ours, theirs)
    assert going.windows < 50 * going.size, "the steps above must cross an epoch"


def test_rows_are_parts_of_the_batch():
    windows = Windows(split(2000), 16, 8, seed=0)
    whole = arrays(windows, 20)[0]
    assert np.array_equal(
        np.concatenate([arrays(windows, 20, slice(at, at + 2))[0] for at in range(0, 8, 2)]), whole
    )
    assert np.array_equal(arrays(windows, 20, slice(1, None, 2))[0], whole[1::2])


def test_the_order_does_not_depend_on_the_batch_size():
    large, small = Windows(split(2000), 16, 12, seed=0), Windows(split(2000), 16, 4, seed=0)
    assert np.array_equal(
        np.concatenate([large.starts(step) for step in range(20)]),
        np.concatenate([small.starts(step) for step in range(60)]),
    )


def test_a_batch_may_be_larger_than_the_split():
    windows = Windows(split(30), 16, 10, seed=0)
    assert windows.windows == 1
    inputs, _ = arrays(windows, 0)
    assert inputs.shape == (10, 16)
    assert len(np.unique(windows.starts(0))) > 1, "every row is another epoch, at another phase"


def test_shuffled_by_seed_and_epoch():
    windows = Windows(split(20_001), 10, 100, seed=0)
    epochs = [
        np.concatenate([windows.starts(epoch * 20 + step) for step in range(20)])
        for epoch in range(3)
    ]
    assert (
        len({int(starts[0] % 10) for starts in epochs} | {int(windows.starts(60)[0] % 10)}) > 1
    ), "phases never change"
    orders = [tuple((starts - starts.min()) // 10) for starts in epochs]
    assert len(set(orders)) == 3
    assert all(np.any(np.diff(starts) < 0) for starts in epochs)
    assert not np.array_equal(Windows(split(20_001), 10, 100, seed=1).starts(0), windows.starts(0))
    assert np.array_equal(Windows(split(20_001), 10, 100, seed=0).starts(0), windows.starts(0))


def test_one_shard_and_many_give_the_same():
    ours, theirs = Windows(split(999, 1), 8, 5, seed=1), Windows(split(999, 11), 8, 5, seed=1)
    assert np.array_equal(arrays(ours, 7)[0], arrays(theirs, 7)[0])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_a_step_as_micro_batches_do(world: int, accumulate: int):
    windows = Windows(split(300), 16, 8, seed=0)
    size = 8 // world // accumulate
    pieces = [
        arrays(windows, 7, slice(micro * size, (micro + 1) * size), rank, world)
        for rank in range(world)
        for micro in range(accumulate)
    ]
    whole = arrays(windows, 7)
    assert np.array_equal(np.concatenate([inputs for inputs, _ in pieces]), whole[0])
    assert np.array_equal(np.concatenate([targets for _, targets in pieces]), whole[1])


def test_rows_that_cannot_be_shared_are_refused():
    with pytest.raises(RequestError, match="8 rows cannot be shared by 3 processes"):
        Windows(split(300), 16, 8, seed=0).batch(0, rank=1, world=3)
