"""What a network's predictions are mixed with: n-gram counts, and a pointer into the context."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flyweight.config.base import PositiveInt, Rate, Strict
from flyweight.config.units import Count

BUCKETS = 8
"""How sure the counts are of a context, in so many steps: a feature of the gate."""

CONFIDENCE = 2
"""Features of the gate beside the hidden state: entropy and highest log-probability."""

MOST_NGRAMS = 2**24
"""N-grams of one order: their numbers travel in float32, which is exact up to here."""


class Counts(Strict):
    """Interpolated modified Kneser-Ney counts of the training text (Chen and Goodman 1999), pruned.

    Of n-grams of two tokens and more, those counted fewer than `min_count` times are dropped; their
    probability goes to shorter contexts. `limit` is the most n-grams to keep, of all orders:
    `min_count` rises until they fit. `entries` has the number of n-grams of each order, shortest
    first; the `mix` stage fills it in.
    """

    order: Annotated[int, Field(ge=2, le=8)] = 4
    min_count: PositiveInt = 2
    limit: Annotated[Count, Field(gt=0)] | None = None
    entries: tuple[Annotated[int, Field(gt=0, le=MOST_NGRAMS)], ...] | None = None


class Pointer(Strict):
    """A distribution over the tokens that followed earlier occurrences of the context's end.

    An earlier place whose last m tokens equal the current ones (m up to `longest`) weighs
    exp(`rate` * m). The `places` heaviest count, later ones first where they weigh the same. The
    pointer is silent where the text repeats itself: where its last d tokens equal the d before
    them, d up to `period`; else a text that has repeated itself once would go on for ever. No
    parameters; see the pointer sentinel mixture (Merity et al. 2017), whose attention is learned.
    """

    longest: Annotated[int, Field(ge=1, le=32)] = 8
    rate: Rate = 1.5
    places: Annotated[int, Field(ge=1, le=256)] = 16
    period: Annotated[int, Field(ge=0, le=64)] = 16


class Mixture(Strict):
    """Predictions p = g0 * network + g1 * counts + g2 * pointer, with gates g that sum to one.

    The gates follow from the network's last hidden state, its confidence, how long a context the
    counts know, and how long a match the pointer has.
    """

    counts: Counts | None = None
    pointer: Pointer | None = None

    @property
    def experts(self) -> int:
        """The number of distributions that are mixed, the network's included."""
        return 1 + (self.counts is not None) + (self.pointer is not None)

    @property
    def gate_rows(self) -> int:
        """The number of cases that the gates tell apart by counts and pointer."""
        rows = 1 if self.counts is None else self.counts.order * BUCKETS
        return rows if self.pointer is None else rows * (self.pointer.longest + 1)

    @property
    def evidence(self) -> int:
        """The number of columns that counts and pointer add to a hidden state."""
        columns = 0 if self.counts is None else self.counts.order - 1
        return columns if self.pointer is None else columns + 2 * self.pointer.places + 1


def table_bytes(counts: Counts, vocab_size: int) -> int:
    """Return the bytes of the counts' tables.

    An entry has a token and a 16-bit share. A context has a start as well.
    """
    entries = counts.entries or ()
    token = 2 if vocab_size <= 2**15 else 4
    starts = sum(4 * (size + 1) for size in entries[:-1])
    return (token + 2) * sum(entries) + starts
