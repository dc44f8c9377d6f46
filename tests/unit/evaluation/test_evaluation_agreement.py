"""Agreement of two models on a text, against a plain computation."""

import numpy as np
import pytest
import torch

from flyweight.errors import RequestError
from flyweight.evaluation.agreement import agreement

VOCAB = 11
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 53)


def table(seed: int):
    """Return a model whose logits depend on the token alone, one row for each."""
    rows = torch.randn(VOCAB, VOCAB + 2, generator=torch.Generator().manual_seed(seed))
    return lambda ids: rows[ids]


def test_it_is_the_plain_computation_over_the_tokens_that_exist():
    model, export = table(0), table(1)
    found = agreement(model, export, TOKENS, 8, VOCAB)
    ids = torch.from_numpy(TOKENS)
    p, q = (each(ids[:-1])[:, :VOCAB].double().log_softmax(-1) for each in (model, export))
    kl = (p.exp() * (p - q)).sum(-1)
    nll = [-each.gather(1, ids[1:, None]).mean().item() for each in (p, q)]
    assert found.tokens == 52
    assert found.nll_of_model.value == pytest.approx(nll[0], rel=1e-5)
    assert found.nll.value == pytest.approx(nll[1], rel=1e-5)
    assert found.difference.value == pytest.approx(nll[1] - nll[0], rel=1e-5)
    assert found.relative == pytest.approx(abs(nll[1] / nll[0] - 1), rel=1e-5)
    assert found.kl.value == pytest.approx(kl.mean().item(), rel=1e-5)
    assert found.kl_999 == pytest.approx(float(np.quantile(kl.numpy(), 0.999)), rel=1e-5)
    same = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert found.top_1.value == pytest.approx(same)
    assert found.kl.low < found.kl.value < found.kl.high


def test_a_model_agrees_with_itself():
    found = agreement(table(0), table(0), TOKENS, 8, VOCAB)
    assert (found.difference.value, found.kl_999, found.top_1.value) == (0, 0, 1)


def test_logits_that_are_no_numbers_are_infinitely_far():
    found = agreement(table(0), lambda ids: table(0)(ids) * torch.nan, TOKENS, 8, VOCAB)
    assert found.nll.value == found.kl_999 == np.inf


def test_fewer_rows_and_short_texts_are_refused():
    with pytest.raises(RequestError, match="another model"):
        agreement(table(0), lambda ids: table(0)(ids)[:, :5], TOKENS, 8, VOCAB)
    with pytest.raises(RequestError, match="--data"):
        agreement(table(0), table(0), TOKENS[:5], 8, VOCAB)
