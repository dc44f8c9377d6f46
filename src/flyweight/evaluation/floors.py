"""Baselines that any model has to beat, trained on the train split.

They are unigrams, interpolated bigrams and a Kneser-Ney 5-gram. They score the same targets as
`likelihood.evaluate`: every token of the split but its first and the begin tokens of documents,
line ends included. Bits per byte count the tokens of the text alone.
"""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flyweight.errors import RequestError
from flyweight.evaluation.kneser_ney import KneserNey, distinct, lookup
from flyweight.records.floors import Floor, NgramFloors

if TYPE_CHECKING:
    from flyweight.data.corpus import Corpus, Split
    from flyweight.data.document import SplitName

# Ten million tokens need about 1.1 GB and 12 s for the 5-gram. More text would lower the floors
# further, so a report names the limit.
TRAIN_LIMIT = 10_000_000
CHOICE_LIMIT = 1_000_000


def mixture_weights(
    components: np.ndarray, counts: np.ndarray, least: float = 1e-9, rounds: int = 200
) -> np.ndarray:
    """Return the weights (K,) of a mixture that maximise its likelihood.

    `components` (N, K) are the components' probabilities; row n occurs `counts[n]` times. Uses
    expectation maximisation, which finds the optimum because the likelihood is concave. No weight
    falls below `least`.
    """
    part = counts / counts.sum()
    weights = np.full(components.shape[1], 1 / components.shape[1])
    for _ in range(rounds):
        shares = components * weights  # (N, K)
        shares /= shares.sum(1, keepdims=True)
        new = np.maximum(part @ shares, least)
        new /= new.sum()
        if np.abs(new - weights).max() < 1e-7:
            return new
        weights = new
    return weights


class Baseline(Protocol):
    """A trained baseline: its probabilities, stored n-grams, their bytes, and its constants."""

    stored: int
    bytes: int
    constants: tuple[float, ...]
    estimated: bool

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Return p(token | earlier tokens) for every token of a stream but the first, (N - 1,)."""
        ...


class Unigram:
    """Relative frequencies mixed with the uniform distribution.

    Held-out text decides the mixture's weights.
    """

    def __init__(self, tokens: np.ndarray, held_out: np.ndarray, vocab_size: int):
        """Count `tokens`; both streams hold ids below `vocab_size`."""
        counts = np.bincount(tokens, minlength=vocab_size)
        self.frequency = counts / counts.sum()
        self.stored, self.bytes = int((counts > 0).sum()), self.frequency.nbytes
        self._uniform = 1 / vocab_size
        # Held-out text without unseen tokens would set the uniform's weight to 0, and an unseen one
        # in the test to infinity.
        times = np.bincount(held_out)
        tokens_present = np.flatnonzero(times)
        self.weights = mixture_weights(
            self._components(tokens_present), times[tokens_present], least=1 / (len(tokens) + 1)
        )
        self.constants, self.estimated = tuple(map(float, self.weights)), True

    def _components(self, tokens: np.ndarray) -> np.ndarray:
        uniform = np.full(len(tokens), self._uniform)
        return np.stack([self.frequency[tokens], uniform], axis=1)  # (N, 2)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Return p(token) for every token of a stream, (N,)."""
        return self._components(tokens) @ self.weights

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Return p(token) for every token of a stream but the first, (N - 1,)."""
        return self.probabilities(tokens[1:])


class Bigram:
    """Bigram frequencies mixed with the unigram model.

    After a token that nothing followed in training, only the unigram model counts.
    """

    def __init__(self, tokens: np.ndarray, held_out: np.ndarray, vocab_size: int):
        """Count the pairs of `tokens`; the weight is chosen on `held_out`."""
        self._unigram, self._vocab_size = Unigram(tokens, held_out, vocab_size), vocab_size
        stream = np.asarray(tokens, np.int64)
        self._keys, pairs = distinct(stream[:-1], stream[1:], vocab_size)
        self._counts = np.bincount(pairs, minlength=len(self._keys))
        self._total = np.bincount(stream[:-1], minlength=vocab_size)
        self.stored = len(self._keys)
        self.bytes = (
            self._keys.nbytes + self._counts.nbytes + self._total.nbytes + self._unigram.bytes
        )
        held_out_ids = np.asarray(held_out, np.int64)
        keys, pairs = distinct(held_out_ids[:-1], held_out_ids[1:], vocab_size)
        self.weights = mixture_weights(
            self._components(*np.divmod(keys, vocab_size)), np.bincount(pairs)
        )
        self.constants, self.estimated = tuple(map(float, self.weights)), True

    def _components(self, before: np.ndarray, token: np.ndarray) -> np.ndarray:
        place = lookup(self._keys, before * self._vocab_size + token)
        counts, total = np.where(place >= 0, self._counts[place], 0), self._total[before]
        unigram = self._unigram.probabilities(token)
        bigram = np.where(total > 0, counts / np.maximum(total, 1), unigram)
        return np.stack([bigram, unigram], axis=1)  # (N, 2)

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Return p(token | token before it) for every token of a stream but the first, (N - 1,)."""
        stream = np.asarray(tokens, np.int64)
        return self._components(stream[:-1], stream[1:]) @ self.weights


def floors(
    corpus: Corpus, split: SplitName = "test", train_limit: int = TRAIN_LIMIT
) -> NgramFloors:
    """Train the three baselines on the train split and score `split` with them.

    Reads the first `train_limit` tokens of the train split. Raises RequestError where a split is
    too short to count anything in.
    """
    target = corpus.split(split)
    whole = corpus.split("train").tokens
    train = np.asarray(whole[:train_limit])
    held_out = np.asarray(corpus.split("validation").tokens[:CHOICE_LIMIT])
    test = np.asarray(target.tokens)
    vocab_size = corpus.meta.vocab_size
    for name, tokens in (("train", train), ("validation", held_out), (split, test)):
        if len(tokens) < 2:
            raise RequestError(
                f"the {name} split has {len(tokens)} tokens: floors need at least 2; use more text"
            )
    scored, text = targets(target)
    return NgramFloors(
        unigram=_floor(lambda: Unigram(train, held_out, vocab_size), target, scored, text),
        bigram=_floor(lambda: Bigram(train, held_out, vocab_size), target, scored, text),
        kn5=_floor(lambda: KneserNey(train, vocab_size, order=5), target, scored, text),
        split=split,
        tokens=int(scored.sum()),
        train_tokens=len(train),
        train_tokens_available=len(whole),
        vocab_size=vocab_size,
    )


def targets(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return which targets of a split (N - 1,) are scored, and which of those encode text."""
    tokens = np.asarray(split.tokens)[1:]
    scored = np.ones(len(tokens), bool)
    for place in range(split.opening):
        begin = split.documents + place - 1
        scored[begin[(begin >= 0) & (begin < len(scored))]] = False
    return scored, scored & ~np.isin(tokens, split.marks)


def _floor(
    train: Callable[[], Baseline], test: Split, scored: np.ndarray, text: np.ndarray
) -> Floor:
    """Train one baseline by the clock and score the split `test` (N tokens).

    `scored` and `text` (N - 1,) as `targets` says.
    """
    began = time.perf_counter()
    model, peak = _watched(train)
    seconds = time.perf_counter() - began
    nats = -np.log(model.score(np.asarray(test.tokens)))  # (N - 1,)
    nll, bits = float(nats[scored].mean()), float(nats[text].sum()) / (math.log(2) * test.bytes)
    return Floor(
        nll=nll,
        perplexity=math.exp(nll),
        bits_per_byte=bits,
        seconds=seconds,
        peak_bytes=peak,
        bytes=model.bytes,
        stored=model.stored,
        constants=model.constants,
        estimated=model.estimated,
    )


def _watched(train: Callable[[], Baseline]) -> tuple[Baseline, int]:
    """Return the baseline that `train` makes and the most bytes held meanwhile, with arrays.

    A trace that runs already goes on afterwards.
    """
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        model = train()
        return model, tracemalloc.get_traced_memory()[1] - before
    finally:
        if not running:
            tracemalloc.stop()
