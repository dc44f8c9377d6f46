"""Interpolated modified Kneser-Ney n-grams (Chen and Goodman 1999) over a token stream, in numpy.

An n-gram's id is its rank among all distinct n-grams of its order, sorted by (id of its first n - 1
tokens, last token). A lookup is one binary search an order, and n-grams that share a context lie
side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FALLBACK = (0.5, 1.0, 1.5)

TABLE_RATIO = 4
"""Up to so many possible keys per token, keys are looked up in a table of all possible ones.

That takes no sorting.
"""


@dataclass(frozen=True)
class Discounts:
    """The discounts of counts of 1, 2 and 3 or more.

    `estimated` is False where the text gave no usable estimate.
    """

    one: float
    two: float
    more: float
    estimated: bool


@dataclass(frozen=True, eq=False)
class Order:
    """One order's n-grams: `keys` (U,) ascending, their discounted counts, and sums by context.

    `total` and `backoff` are by id of the context, an n-gram one order down. `total` is the sum of
    the counts that follow it; 0 means that nothing follows. `backoff` is the share of probability
    left to the next shorter context.
    """

    keys: np.ndarray  # (U,) int64: context id * vocabulary + token
    kept: np.ndarray  # (U,) float64: max(count - discount, 0)
    total: np.ndarray  # (contexts,) float64
    backoff: np.ndarray  # (contexts,) float64
    discounts: Discounts
    counts: np.ndarray  # (U,) int64: before discounting; scoring does not need them


def estimate_discounts(counts: np.ndarray) -> Discounts:
    """Return Chen and Goodman's discounts from counts of counts.

    Y = n1 / (n1 + 2 n2), D_k = k - (k + 1) Y n_{k+1} / n_k. In small vocabularies, some orders have
    (almost) no n-gram that was seen once, and estimates outside 0 < D_k <= k. There 0.5, 1 and 1.5
    are used, marked as not estimated.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        one, two, more = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        if 0 < one <= 1 and 0 < two <= 2 and 0 < more <= 3:
            return Discounts(one, two, more, True)
    return Discounts(*FALLBACK, estimated=False)


class KneserNey:
    """An interpolated modified Kneser-Ney model of `order` tokens over ids below `vocab_size`.

    The highest order is discounted by its counts, the lower ones by their continuation counts: how
    many distinct n-grams one longer end in them. Unigrams back off to the uniform distribution;
    every token has probability. Contexts run across line ends and documents, as a language model's
    windows do.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 5):
        """Count `tokens` (N,), which must hold at least one token.

        Sets `discounts`, of every order (shortest first), `stored`, the number of distinct n-grams
        of all orders, and `bytes`, the size of their tables.
        """
        stream = np.asarray(tokens, np.int64)
        self.vocab_size, self.order = vocab_size, min(order, len(stream))
        self.levels: list[Order] = []
        """Every order's n-grams, shortest first."""
        contexts = 1
        context = np.zeros(len(stream), np.int64)  # id of the context of every position
        keys, ending = distinct(context, stream, vocab_size)
        for n in range(1, self.order):
            context = ending[:-1]
            longer_keys, longer_ending = distinct(context, stream[n:], vocab_size)
            # Each distinct (n + 1)-gram counts once, for the n-gram that it ends in.
            somewhere = np.empty(len(longer_keys), np.int64)
            somewhere[longer_ending] = np.arange(len(longer_ending))
            continuations = np.bincount(ending[1:][somewhere], minlength=len(keys))
            self.levels.append(_order(keys, continuations, contexts, vocab_size))
            contexts, keys, ending = len(keys), longer_keys, longer_ending
        self.levels.append(
            _order(keys, np.bincount(ending, minlength=len(keys)), contexts, vocab_size)
        )

        self.discounts = tuple(level.discounts for level in self.levels)
        self.constants = tuple(value for d in self.discounts for value in (d.one, d.two, d.more))
        self.estimated = all(d.estimated for d in self.discounts)
        self.stored = sum(len(level.keys) for level in self.levels)
        arrays = (
            array
            for level in self.levels
            for array in (level.keys, level.kept, level.total, level.backoff)
        )
        self.bytes = sum(array.nbytes for array in arrays)

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Return the probabilities of every token of a stream but the first, (N - 1,)."""
        return self.probabilities(tokens)[1:]

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Return p(token | up to order - 1 tokens before it) for a stream (N,), float64 (N,)."""
        stream = np.asarray(tokens, np.int64)
        result = np.full(len(stream), 1.0 / self.vocab_size)
        context = np.zeros(len(stream), np.int64)  # id of the context, -1 where it was never seen
        for n, level in enumerate(self.levels, start=1):
            ngrams = lookup(
                level.keys, np.where(context >= 0, context * self.vocab_size + stream, -1)
            )
            usable = np.flatnonzero(context >= 0)
            usable = usable[level.total[context[usable]] > 0]
            at, ngram = context[usable], ngrams[usable]
            discounted = np.where(ngram >= 0, level.kept[ngram], 0.0)
            result[usable] = discounted / level.total[at] + level.backoff[at] * result[usable]
            if n < self.order:
                # The next order's context is this order's n-gram that ends one token earlier.
                context = np.concatenate([np.full(1, -1), ngrams[:-1]])
        return result


def distinct(
    context: np.ndarray, token: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct (context, token) keys (U,), ascending, and each position's index (N,)."""
    key = context * vocab_size + token
    possible = int(key.max()) + 1
    if possible > TABLE_RATIO * len(key):
        keys, ending = np.unique(key, return_inverse=True)
        return keys, ending
    there = np.zeros(possible, bool)
    there[key] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[key]


def _order(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> Order:
    """Discount one order's counts and gather what every context keeps and passes on."""
    discounts = estimate_discounts(counts)
    # Nothing is taken from a count of 0: an n-gram that only opens the stream has no continuation.
    discount = np.array([0.0, discounts.one, discounts.two, discounts.more])[np.minimum(counts, 3)]
    context = keys // vocab_size
    total = np.bincount(context, weights=counts, minlength=contexts)
    passed = np.bincount(context, weights=discount, minlength=contexts)
    return Order(
        keys,
        counts - discount,
        total,
        np.divide(passed, total, out=np.zeros(contexts), where=total > 0),
        discounts,
        counts,
    )


def lookup(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the positions of `queries` in ascending `keys`, -1 where they are not."""
    at = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[at] == queries, at, -1)
