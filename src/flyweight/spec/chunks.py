"""How many tokens are taken at once: by the head and the loss, and by an evaluation."""

TOKENS_AT_ONCE = 2048
"""Tokens that a teacher's body reads at once where it tells beforehand."""

WINDOW = 1024
"""Tokens that are read at once unless the user says otherwise.

A model's context may be far more than memory holds.
"""

LEAST, GOOD = 128, 256
"""Tokens in a chunk.

With fewer than the first, products with the head fall to half their speed. With the second they are
a tenth faster, in bfloat16 a seventh.
"""

SMALL, LARGE = 2**22, 3 * 2**23
"""Logits in a chunk (17 and 101 MB in float32).

A chunk has as many tokens as make the first number, and a good number of tokens up to the second.
"""

ALIGNED = 16
"""Logits in whose multiples a token's logits begin.

Rows of 50,257 numbers side by side make the product a third slower in float32.
"""

PIECE_CPU, PIECE_ELSEWHERE = 2**18, 2**24
"""Logits of a chunk whose loss is taken at once, by device.

A loss holds several numbers for each of them. A CPU takes what its cache holds, a GPU enough work.
"""


def chunk_rows(vocab: int) -> int:
    """Return the tokens of a chunk for a vocabulary."""
    return max(LEAST, SMALL // vocab, min(GOOD, LARGE // vocab))
