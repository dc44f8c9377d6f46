"""The cache of a model without keys and values.

Its tensors do not grow with the tokens that the model has read.
"""

from __future__ import annotations

from torch import Tensor

from flyweight.errors import RequestError


class StateCache:
    """`state` after `length` tokens of up to `capacity`.

    The first axis of each of its tensors is the batch's.
    """

    def __init__(self, capacity: int, *state: Tensor) -> None:
        self.capacity, self.state = capacity, state
        self.length = 0

    def reserve(self, tokens: int) -> None:
        """Raise RequestError if `tokens` more do not fit."""
        if self.length + tokens > self.capacity:
            raise RequestError(
                f"cache: {self.length} + {tokens} tokens do not fit its length {self.capacity}; "
                f"make a longer one"
            )

    def advance(self, tokens: int, *state: Tensor) -> None:
        """Count `tokens` as read and take the state after them."""
        self.length, self.state = self.length + tokens, state

    def select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""
        self.state = tuple(part.index_select(0, rows) for part in self.state)

    def truncate(self, length: int, kept: Tensor) -> bool:
        """Return False: a state cannot go back to `kept` (1, length), which has to be read anew."""
        return False

    def resize(self, length: int) -> None:
        """Allow `length` tokens in all: the state stays as large as it is."""
        self.capacity = length

    def nbytes(self) -> int:
        """Return the bytes that are held."""
        return sum(part.nbytes for part in self.state)
