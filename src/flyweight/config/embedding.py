"""The token embedding and its table of bigrams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from flyweight.config.base import PositiveInt, Strict, choice


class NoBigram(Strict):
    """No bigram table."""

    kind: Literal["none"] = "none"


class ExactBigram(Strict):
    """A vector for every (previous, current) pair of tokens, starting at zero.

    The table has (vocab_size + 1) * vocab_size rows.
    """

    kind: Literal["exact"] = "exact"


class HashedBigram(Strict):
    """A vector for every bucket of a hash of (previous, current), starting at zero.

    From `order` 3 on, the rows of the last 3, ..., `order` tokens are added as well, out of the
    same buckets: hash n-gram embeddings (Pagnoni et al. 2024, section 3.2.1), which cost parameters
    and next to no FLOPs.
    """

    kind: Literal["hashed"] = "hashed"
    buckets: PositiveInt = 16_384
    order: int = Field(2, ge=2, le=8)


Bigram = Annotated[
    Annotated[NoBigram | ExactBigram | HashedBigram, Discriminator("kind")], choice()
]


class Embedding(Strict):
    """Token embedding: shared with the head (`tied`) or not, with an optional bigram table.

    `rank` makes it a table of so many columns and a matrix that expands them (ALBERT, Lan et al.
    2020); a tied head goes through the same two.
    """

    tied: bool = True
    rank: PositiveInt | None = None
    bigram: Bigram = NoBigram()
