"""Where documents begin when each is read by itself, and which tokens belong to which.

A document is read from the token before its text on: its begin token, or else the end token of the
document before it. That end token is the last target of one document and the first input of the
next, so every target is predicted from its own document alone.

    tokens    a  b  <end>  c  d  <end>         inputs    a  b     <end> c  d
    ids       0  0  1      1  1  2             targets   b  <end> c     d  <end>
"""

from __future__ import annotations

import numpy as np

from flyweight.data.corpus import Split
from flyweight.errors import RequestError

UNMARKED = (
    "data.documents: isolated needs a token that begins or ends a document, and this tokenizer has "
    "none; use another data.tokenizer, or documents: joined"
)


def reading_starts(split: Split) -> np.ndarray:
    """Return the offset of the first token of every document as it is read, int64, the first 0.

    Raises RequestError where no token marks the begin or the end of a document: its first token
    could only be predicted from another document.
    """
    documents = np.asarray(split.documents, np.int64)
    if split.opening:
        return documents
    if len(documents) <= len(split.name.split("+")):  # one text
        return np.zeros(1, np.int64)
    if not split.closing:
        raise RequestError(UNMARKED)
    return np.append(np.zeros(1, np.int64), documents[1:] - 1)


class DocumentIds:
    """The documents of windows over a split that is read as a ring, as `Windows` reads it."""

    def __init__(self, split: Split) -> None:
        """Look up where documents begin; raise RequestError as `reading_starts` does."""
        self._starts = reading_starts(split)
        self._opening = split.opening
        self._targets = len(split.tokens) - 1

    def ids(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the document of each token of windows that begin at `starts` (rows,).

        That is (rows, length) int64.

        Behind the end of the split its first document begins, under an id of its own.
        """
        offsets = starts[:, None] + np.arange(length, dtype=np.int64)  # (rows, length)
        around = offsets >= self._targets
        documents = self._document(np.where(around, offsets - self._targets, offsets))
        return documents + around * len(self._starts)

    def untold(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return which targets are begin tokens, (rows, length) bool: nothing foretells them."""
        offsets = (starts[:, None] + np.arange(length, dtype=np.int64)) % self._targets + 1
        return offsets - self._starts[self._document(offsets)] < self._opening

    def _document(self, offsets: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, offsets, side="right") - 1
