"""Gates are fitted to held-out text and improve it, never by much the other way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flyweight.config import schema
from flyweight.config.mixture import Mixture
from flyweight.model.mixture import MixtureHead
from flyweight.training.mix import Evidence, crossfit_nll, fit, mixed_nll


def head(longest: int = 2) -> MixtureHead:
    return MixtureHead(Mixture(pointer=schema.Pointer(longest=longest)), 4, 50)


def evidence(rows: int, good: float, bad: float, seed: int = 0) -> Evidence:
    """Return targets of which the pointer is right where it matches two tokens, and wrong elsewhere."""
    random = np.random.default_rng(seed)
    match = torch.from_numpy(random.integers(0, 3, rows))
    pointer = torch.where(match == 2, good, bad)
    scores = torch.stack((torch.full((rows,), -3.0), pointer), 1)
    speaks = torch.stack((torch.ones(rows, dtype=torch.bool), match > 0), 1)
    numbers = torch.from_numpy(random.normal(size=(rows, 6)).astype(np.float32))
    return Evidence(scores, numbers, match, speaks)


def test_gates_trust_an_expert_where_it_is_right() -> None:
    built, data = head(), evidence(4000, -0.1, -9.0)
    fit(built, data)
    with torch.no_grad():
        shares = built.shares(data.numbers, data.case, data.speaks).exp()
        nll = float(mixed_nll(built, data).mean())
    assert shares[data.case == 2, 1].min() > 0.9
    assert shares[data.case == 1, 1].max() < 0.1
    assert shares[data.case == 0, 1].max() == 0
    assert nll == pytest.approx((2 * 3 + 0.1) / 3, abs=0.05)


def test_few_targets_move_little() -> None:
    built, data = head(), evidence(6, -2.9, -3.1)
    fit(built, data)
    assert float(built.gate.abs().max()) < 0.2


def test_a_useless_expert_costs_next_to_nothing() -> None:
    built, data = head(), evidence(2000, -9.0, -9.0)
    assert crossfit_nll(built, data) == pytest.approx(3.0, abs=0.01)


def test_crossfitting_scores_every_target_by_gates_that_have_not_seen_it() -> None:
    built, data = head(), evidence(3000, -0.1, -9.0)
    honest = crossfit_nll(built, data)
    fit(built, data)
    with torch.no_grad():
        inside = float(mixed_nll(built, data).mean())
    assert inside <= honest < inside + 0.02
