"""States in fewer bits: what is stored, and that training with them is training."""

import pytest
import torch

from flyweight.training.optimizer_states import (
    BLOCK,
    FIRST,
    SECOND,
    SLICE,
    generator_for,
    parts,
    rounded_at_random,
)
from flyweight.training.optimizers import MuonOptimizer
from flyweight.training.sliced_adamw import SlicedAdamW

CPU = torch.device("cpu")
COUNT = SLICE + 3 * BLOCK + 5  # two slices, the last block is not full


def stored(kinds, states, values, seed=0):
    """Return what is read again after values were stored slice by slice."""
    kept = kinds[states].new("x", len(values), CPU)
    generator = torch.Generator().manual_seed(seed)
    for part in parts(len(values)):
        kinds[states].read(kept, "x", part).copy_(values[part])  # float32 is changed in place
        kinds[states].write(kept, "x", part, values[part].clone(), generator)
    read = torch.cat([kinds[states].read(kept, "x", part) for part in parts(len(values))])
    return kept, read


@pytest.mark.parametrize(("states", "error"), [("fp32", 0.0), ("bf16", 2**-7), ("int8", 2 / 127)])
def test_a_first_moment_is_stored_with_small_errors(states, error):
    values = torch.randn(COUNT)
    _, read = stored(FIRST, states, values)
    assert ((read - values).abs() <= error * values.abs().max() + 1e-12).all()


@pytest.mark.parametrize("states", ["bf16", "int8"])
@pytest.mark.parametrize("kinds", [FIRST, SECOND])
def test_what_is_stored_is_right_on_average(states, kinds):
    values = torch.randn(4 * BLOCK).square_() + 0.1
    reads = torch.stack([stored(kinds, states, values, seed)[1] for seed in range(400)])
    bias = (reads.mean(0) - values).abs().mean()
    assert bias < 0.1 * (reads[0] - values).abs().mean()  # rounded to the nearest they are equal


@pytest.mark.parametrize(("states", "most"), [("fp32", 4), ("bf16", 2), ("int8", 1.02)])
@pytest.mark.parametrize("kinds", [FIRST, SECOND])
def test_a_state_takes_its_bytes(states, most, kinds):
    kept, _ = stored(kinds, states, torch.rand(COUNT))
    assert sum(tensor.nbytes for tensor in kept.values()) <= most * COUNT


def test_a_second_moment_in_8_bits_is_never_nothing_beside_something():
    values = torch.full((BLOCK,), 1e-20)
    values[0] = 1.0
    _, read = stored(SECOND, "int8", values)
    assert (read > 0).all() and read[0] == 1.0
    assert stored(SECOND, "int8", torch.zeros(BLOCK))[1].eq(0).all()


def test_rounding_at_random_goes_to_one_of_the_two_neighbours():
    values = torch.randn(10_000) * 1e-3
    rounded = rounded_at_random(values, torch.Generator().manual_seed(0)).float()
    assert ((rounded - values).abs() < 2**-7 * values.abs()).all()
    assert torch.equal(rounded_at_random(rounded, torch.Generator()).float(), rounded)
    one = torch.full((100_000,), 1 + 2**-10)  # an eighth of the way to the next number
    up = rounded_at_random(one, torch.Generator().manual_seed(0)).float() > 1
    assert abs(up.float().mean() - 0.125) < 0.01


def test_random_numbers_are_a_function_of_step_and_place():
    def draw(*key):
        return torch.rand(3, generator=generator_for(*key, CPU)).tolist()

    assert draw(0, 5, 2) == draw(0, 5, 2)
    assert len({tuple(draw(*key)) for key in [(0, 5, 2), (1, 5, 2), (0, 6, 2), (0, 5, 3)]}) == 4


def moved(make, steps=20):
    """Return two matrices and a vector after some steps on the same random gradients."""
    draw = torch.Generator().manual_seed(1)
    shapes = [(300, 250), (64, 80), (7,)]
    made = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    optimizer = make(made)
    for _ in range(steps):
        for parameter in made:
            parameter.grad = torch.randn(parameter.shape, generator=draw) + 0.3
        optimizer.step()
    return [parameter.detach() for parameter in made], optimizer


def adamw(states):
    def make(parameters):
        groups = [{"params": parameters, "weight_decay": 0.1}]
        return SlicedAdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8, states=states)

    return make


def torchs(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


@pytest.mark.parametrize(("states", "error"), [("fp32", 1e-6), ("bf16", 5e-4), ("int8", 5e-3)])
def test_sliced_adamw_is_torchs(states, error):
    ours, _ = moved(adamw(states))
    theirs, _ = moved(torchs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).square().mean().sqrt() < error  # of steps that add up to 0.1
    assert torch.allclose(ours[2], theirs[2], atol=1e-6)  # a short tensor keeps float32


@pytest.mark.parametrize("states", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_states_come_back_from_a_checkpoint_as_they_were(kind, states):
    def muon(parameters):
        return MuonOptimizer(parameters[:2], lr=0.01, dtype=torch.float32, states=states)

    make = adamw(states) if kind == "adamw" else muon
    _, optimizer = moved(make, 3)
    _, other = moved(make, 1)
    saved = optimizer.state_dict()
    other.load_state_dict(saved)
    again = other.state_dict()
    assert again["state"].keys() == saved["state"].keys()
    for place, entries in saved["state"].items():
        for name, tensor in entries.items():
            assert again["state"][place][name].dtype == tensor.dtype
            assert torch.equal(again["state"][place][name], tensor)


@pytest.mark.parametrize(("states", "error"), [("bf16", 0.02), ("int8", 0.1)])
def test_muon_with_a_short_momentum_goes_almost_the_same_way(states, error):
    def make(states):
        return lambda made: MuonOptimizer(made[:2], lr=0.01, dtype=torch.float32, states=states)

    (ours, *_), _ = moved(make(states))
    (theirs, *_), _ = moved(make("fp32"))
    (start, *_), _ = moved(make("fp32"), 0)
    assert (ours - theirs).norm() < error * (theirs - start).norm()
