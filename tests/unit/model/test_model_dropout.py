"""Dropout by row: the same mask of a row in whatever batch it stands."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from flyweight.model.dropout import (
    LEVELS,
    Dropout,
    StochasticDepth,
    dropout,
    number_rows,
    stochastic_depth,
)

SHAPE = (8, 5, 7)  # numbers of a row do not fill whole words


def masks(drop, cuts, seed=0):
    """Return the masks of SHAPE's rows, read in pieces that end at `cuts`."""
    found, x = [], torch.ones(SHAPE)
    for start, stop in zip((0, *cuts), (*cuts, len(x)), strict=True):
        torch.manual_seed(seed)
        number_rows([drop], start)
        found.append(torch.cat([drop.dropped(x[start:stop]), drop.dropped(x[start:stop])], 1))
    return torch.cat(found)


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 7), (3, 3)])
def test_a_row_has_its_mask_in_whatever_batch(cuts):
    drop = Dropout(0.3)
    whole = masks(drop, ())
    assert torch.equal(masks(drop, cuts), whole)
    assert not torch.equal(masks(drop, cuts, seed=1), whole)


def test_rows_calls_and_keys_differ():
    found = masks(Dropout(0.5), ())  # (8, 2 * 5, 7)
    rows = {tuple(row.flatten().tolist()) for row in found.unflatten(1, (2, 5)).flatten(0, 1)}
    assert len(rows) == 16


def test_half_the_batch_is_not_numbered_from_nothing():
    drop = Dropout(0.5)
    torch.manual_seed(0)
    first = drop.dropped(torch.ones(SHAPE))
    torch.manual_seed(0)
    number_rows([drop], 8)
    assert not torch.equal(drop.dropped(torch.ones(SHAPE)), first)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_the_rate_says_and_the_mean_stays(rate):
    torch.manual_seed(3)
    drop, n = Dropout(rate), 64 * 10_000
    y = drop(torch.ones(64, 10_000))
    spread = (rate * (1 - rate) / n) ** 0.5
    assert abs(float((y == 0).double().mean()) - rate) < 4 * spread + 1 / LEVELS
    assert float(y.double().mean()) == pytest.approx(1, abs=5 * spread / (1 - rate))
    assert len(y.unique()) == 2


def test_neighbours_are_independent():
    torch.manual_seed(4)
    mask = Dropout(0.5).dropped(torch.ones(64, 10_000)).double() - 0.5
    for other in (mask.roll(1, 0), mask.roll(1, 1), mask.roll(4, 1)):
        assert abs(float((mask * other).mean())) < 4 * 0.25 / 800


def test_gradients_pass_where_numbers_pass():
    x = torch.randn(SHAPE, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    scale = LEVELS / (LEVELS - round(0.4 * LEVELS))
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, scale))


def test_one_byte_of_each_number_is_kept():
    kept = []
    x = torch.randn(SHAPE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        Dropout(0.4)(x * 1.0)
    assert sum(t.nbytes for t in kept if t.dim()) == x.numel()


@pytest.mark.parametrize("rows", [3, 8])
def test_computed_again_it_drops_the_same(rows):
    drop = Dropout(0.5)

    def twice(x):
        return drop(drop(x).exp())

    gradients = []
    for run in (twice, lambda x: checkpoint(twice, x, use_reentrant=False)):
        torch.manual_seed(0)
        x = torch.linspace(-1, 1, rows * 6).view(rows, 6).requires_grad_()
        run(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_nothing_is_dropped_outside_training_or_at_no_rate():
    x = torch.randn(SHAPE)
    state = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert dropout(0.0) is None
    assert dropout(0.5).rate == 0.5


def test_a_dry_run_counts_masks_without_drawing_them():
    with FakeTensorMode():
        assert Dropout(0.5)(torch.ones(SHAPE)).shape == SHAPE
    assert Dropout(0.5)(torch.ones(SHAPE, device="meta")).is_meta


def test_an_empty_batch_has_an_empty_mask():
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def factors(drop, cuts, use=0, seed=0):
    """Return what SHAPE's rows are multiplied by, read in pieces that end at `cuts`."""
    found, x = [], torch.ones(SHAPE)
    for start, stop in zip((0, *cuts), (*cuts, len(x)), strict=True):
        torch.manual_seed(seed)
        number_rows([drop], start)
        found.append(torch.stack([drop.factors(x[start:stop], use) for _ in range(2)]))
    return torch.cat(found, 1)


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 7)])
def test_a_row_loses_its_branches_in_whatever_batch(cuts):
    drop = StochasticDepth((0.2, 0.5))
    assert torch.equal(factors(drop, cuts, use=1), factors(drop, (), use=1))
    assert not torch.equal(factors(drop, (), use=1), factors(drop, (), use=1, seed=1))


@pytest.mark.parametrize("use", [0, 1])
def test_a_branch_is_dropped_whole_as_often_as_its_use_says_and_its_mean_stays(use):
    torch.manual_seed(3)
    rate, n = (0.1, 0.7)[use], 20_000
    drop = StochasticDepth((0.1, 0.7))
    y = drop(torch.ones(n, 2, 3), use)
    spread = (rate * (1 - rate) / n) ** 0.5
    assert float((y[:, 0, 0] == 0).double().mean()) == pytest.approx(rate, abs=4 * spread)
    assert float(y.double().mean()) == pytest.approx(1, abs=5 * spread / (1 - rate))
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert drop.eval()(y, use) is y


def test_a_branch_is_dropped_in_its_own_dtype_and_counted_without_data():
    drop = StochasticDepth((0.5,))
    assert drop(torch.ones(4, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with FakeTensorMode():
        assert drop(torch.ones(4, 2)).shape == (4, 2)
    assert stochastic_depth(()) is None
