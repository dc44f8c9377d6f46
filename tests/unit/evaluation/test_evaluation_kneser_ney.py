"""The numpy model against an independent, slow one made of dictionaries, and against the laws of probability."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from flyweight.evaluation import kneser_ney
from flyweight.evaluation.kneser_ney import FALLBACK, KneserNey, distinct, estimate_discounts


class Slow:
    """Interpolated modified Kneser-Ney as written in Chen and Goodman (1999), one n-gram at a time."""

    def __init__(
        self, tokens: list[int], vocab: int, order: int, fallback: tuple[float, float, float]
    ):
        self.vocab, self.order = vocab, order
        grams = {
            n: Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            for n in range(1, order + 1)
        }
        self.counts: dict[int, dict[tuple, int]] = {order: dict(grams[order])}
        for n in range(1, order):
            left = defaultdict(set)
            for gram in grams[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = {gram: len(left[gram]) for gram in grams[n]}
        self.discount = {n: self.discounts(self.counts[n], fallback) for n in self.counts}
        self.followers = {n: defaultdict(dict) for n in self.counts}
        for n, counts in self.counts.items():
            for gram, count in counts.items():
                self.followers[n][gram[:-1]][gram[-1]] = count

    @staticmethod
    def discounts(counts, fallback):
        n = [sum(1 for c in counts.values() if c == k) for k in range(5)]
        if all(n[1:]):
            y = n[1] / (n[1] + 2 * n[2])
            d = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
            if all(0 < d[k - 1] <= k for k in (1, 2, 3)):
                return d
        return list(fallback)

    def p(self, token: int, history: tuple[int, ...]) -> float:
        return self._p(
            token, tuple(history[len(history) - (self.order - 1) :] if self.order > 1 else ())
        )

    def _p(self, token, history):
        lower = self._p(token, history[1:]) if history else 1 / self.vocab
        follow = self.followers[len(history) + 1].get(history, {})
        total = sum(follow.values())
        if total == 0:
            return lower
        d = [0.0, *self.discount[len(history) + 1]]
        own = follow.get(token, 0)
        passed = sum(d[min(c, 3)] for c in follow.values())
        return max(own - d[min(own, 3)], 0) / total + passed / total * lower


def stream(length, vocab, seed=0):
    return np.minimum(np.random.default_rng(seed).geometric(0.25, length) - 1, vocab - 1)


@pytest.mark.parametrize(
    ("order", "length"), [(1, 60), (2, 400), (3, 400), (5, 700), (5, 3), (4, 5)]
)
def test_agrees_with_the_dictionaries(order, length):
    train, test = stream(length, 12), stream(150, 14, seed=1)  # ids 12 and 13 are never seen
    fast, slow = KneserNey(train, 14, order), Slow(train.tolist(), 14, min(order, length), FALLBACK)
    expected = [
        slow.p(int(test[i]), tuple(test[max(0, i - order + 1) : i].tolist()))
        for i in range(len(test))
    ]
    np.testing.assert_allclose(fast.probabilities(test), expected, rtol=1e-12)


def test_agrees_with_estimated_discounts_at_every_order():
    train, test = stream(6000, 60), stream(200, 60, seed=1)
    train = np.where(
        np.random.default_rng(2).random(6000) < 0.1,
        np.random.default_rng(3).zipf(1.3, 6000) % 900,
        train,
    )
    fast, slow = KneserNey(train, 900, 3), Slow(train.tolist(), 900, 3, FALLBACK)
    assert [d.estimated for d in fast.discounts] == [True, True, True]
    expected = [
        slow.p(int(test[i]), tuple(test[max(0, i - 2) : i].tolist())) for i in range(len(test))
    ]
    np.testing.assert_allclose(fast.probabilities(test), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_any_history(order):
    vocab, train = 9, stream(300, 7)
    model = KneserNey(train, vocab, order)
    histories = [
        (0, 1, 0, 0),
        (6, 6, 6, 6),
        (8, 8, 8, 8),
        (0, 0, 8, 0),
        (1, 0, 0, 1),
        tuple(train[-4:].tolist()),
    ]
    for history in histories:
        total = sum(model.probabilities(np.array([*history, token]))[-1] for token in range(vocab))
        assert total == pytest.approx(1, abs=1e-12)


def test_unseen_tokens_have_probability():
    assert KneserNey(stream(100, 5), 50, 5).probabilities(np.array([49, 49, 0, 49])).min() > 0


def test_longer_contexts_help_on_text_that_has_them():
    train = np.tile(np.array([0, 1, 2, 0, 2, 1, 0, 0, 3]), 60)
    nll = [-np.log(KneserNey(train, 4, order).score(train[:200])).mean() for order in (1, 2, 3, 5)]
    assert nll == sorted(nll, reverse=True) and nll[-1] < 0.2


def test_discounts_are_chen_and_goodmans():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 7])
    found = estimate_discounts(counts)  # Y = 40 / 80
    assert (found.one, found.two, found.more, found.estimated) == (0.5, 1.25, 2.0, True)


def test_discounts_that_cannot_be_estimated_say_so():
    assert estimate_discounts(np.array([5, 5, 9])) == estimate_discounts(np.array([1, 1, 2]))
    assert not estimate_discounts(np.array([5, 5, 9])).estimated


def test_stored_counts_every_distinct_ngram():
    assert KneserNey(np.array([0, 1, 0, 1, 1]), 2, 3).stored == 2 + 3 + 3


@pytest.mark.parametrize("ratio", [0, 10**6])
def test_sorting_and_the_table_find_the_same_keys(ratio, monkeypatch):
    monkeypatch.setattr(kneser_ney, "TABLE_RATIO", ratio)
    context, token = stream(500, 9), stream(500, 12, seed=1)
    keys, ending = distinct(context, token, 12)
    assert keys.tolist() == sorted(set((context * 12 + token).tolist()))
    assert (keys[ending] == context * 12 + token).all()
