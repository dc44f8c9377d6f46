"""Measure how much of the held-out text the training text contains too, in bounded memory.

Held-out documents are cut into pieces of PIECE characters. A rolling hash (Karp and Rabin 1987)
looks for each piece at every position of every training document. A run of white space counts as
one space.
"""

from __future__ import annotations

import numpy as np

PIECE = 50
"""Characters of a piece.

A held-out document of fewer is compared as a whole, with whole documents.
"""
LIMIT = 1 << 21
"""Different pieces remembered.

Beyond it, a fixed fraction of all pieces, chosen by their hash, represents the rest.
"""

_BUFFER = 1 << 17
_END = "\0"
"""Stands between documents; no text has it."""
_BASE = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_FILTER_BITS = 25


def _powers(base: int) -> np.ndarray:
    """Return base^0, base^1, ... modulo 2^64, (_BUFFER + PIECE,) uint64.

    They suffice for a buffer and the codes kept from the one before.
    """
    factors = np.full(_BUFFER + PIECE, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


_UP, _DOWN = _powers(_BASE), _powers(pow(_BASE, -1, 1 << 64))


def piece_hashes(codes: np.ndarray, step: int = 1) -> np.ndarray:
    """Return the 64-bit hashes of the pieces that start at every `step`-th code.

    (codes,) uint32 to (pieces,) uint64.
    """
    if len(codes) < PIECE:
        return np.empty(0, np.uint64)
    values = (codes.astype(np.uint64) + np.uint64(1)) * _MIX
    values ^= values >> np.uint64(31)
    # The sum of values[i + j] / base^j, from sums of values[k] / base^k.
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(values * _DOWN[: len(codes)], out=sums[1:])
    starts = slice(0, len(codes) - PIECE + 1, step)
    hashes = (sums[PIECE:][starts] - sums[:-PIECE][starts]) * _UP[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _spaced(codes: np.ndarray, after_space: bool) -> np.ndarray:
    """Return codes with one space for each run of white space, none after a document's start."""
    white = (codes == 0x20) | ((codes >= 0x09) & (codes <= 0x0D))
    before = np.empty_like(white)
    before[:1] = after_space
    before[1:] = white[:-1] | (codes[:-1] == 0)
    return np.where(white, np.uint32(0x20), codes)[~(white & before)]


class _HeldOut:
    """The pieces of one split: sorted hashes, their counts, and whether training text has them."""

    def __init__(self) -> None:
        self.keys = np.empty(0, np.uint64)
        self.counts = np.empty(0, np.int64)
        self.seen = np.empty(0, bool)
        self.new: list[np.ndarray] = []
        self.pending = 0
        self._waiting: list[str] = []
        self._length = 0
        self._rest, self._after_space, self._whole = np.empty(0, np.uint32), True, True
        self._filter, self._shift = np.zeros(1, bool), np.uint64(63)

    def add(self, text: str, continues: bool) -> None:
        """Add a document's text, or its next part."""
        if not continues:
            self.end()
        for start in range(0, len(text), _BUFFER):
            part = text[start : start + _BUFFER]
            if self._length + len(part) > _BUFFER:
                self._cut()
            self._waiting.append(part)
            self._length += len(part)

    def _cut(self) -> None:
        """Hash the whole pieces of what waits."""
        new = _codes("".join(self._waiting))
        self._waiting, self._length = [], 0
        codes = _spaced(new, self._after_space)
        if len(new):
            self._after_space = bool(new[-1] == 0x20 or 0x09 <= new[-1] <= 0x0D)
        codes = np.concatenate([self._rest, codes])
        self._keep(piece_hashes(codes, PIECE))
        self._whole = self._whole and len(codes) < PIECE
        self._rest = codes[len(codes) // PIECE * PIECE :]

    def _keep(self, hashes: np.ndarray) -> None:
        self.new.append(hashes)
        self.pending += len(hashes)

    def end(self) -> None:
        """End the document.

        One shorter than a piece is hashed between two marks, as `Overlap.look` puts them around
        training documents.
        """
        self._cut()
        if self._whole and len(self._rest):
            room = PIECE - 1 - len(self._rest)
            self._keep(piece_hashes(np.pad(self._rest, (1, room))))
        self._rest, self._after_space, self._whole = np.empty(0, np.uint32), True, True

    def compact(self, mask: np.uint64) -> None:
        """Merge the new hashes into the old ones; keep those that the mask chooses."""
        hashes = np.concatenate([self.keys, *self.new])
        counts = np.ones(len(hashes), np.int64)
        counts[: len(self.counts)] = self.counts
        chosen = hashes & mask == 0
        self.keys, inverse = np.unique(hashes[chosen], return_inverse=True)
        self.counts = np.bincount(inverse, counts[chosen], len(self.keys)).astype(np.int64)
        self.new, self.pending = [], 0

    def prepare(self) -> None:
        """Make ready for `find`; no text may come later."""
        self.seen = np.zeros(len(self.keys), bool)
        bits = min(_FILTER_BITS, (16 * len(self.keys) + 1).bit_length())
        self._filter, self._shift = np.zeros(1 << bits, bool), np.uint64(64 - bits)
        self._filter[self.keys >> self._shift] = True

    def find(self, hashes: np.ndarray) -> None:
        """Note which pieces are among the hashes of training text."""
        likely = hashes[self._filter[hashes >> self._shift]]
        if len(likely) and len(self.keys):
            at = np.minimum(np.searchsorted(self.keys, likely), len(self.keys) - 1)
            self.seen[at[self.keys[at] == likely]] = True


class Overlap:
    """Remember the pieces of held-out splits, then look for them in the training text.

    Every held-out split must be complete before the first training text.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._mask = np.uint64(0)
        self._splits: dict[str, _HeldOut] = {}
        self._looking = False
        self._waiting: list[str] = []
        self._length = 0
        self._kept = np.empty(0, np.uint32)

    def remember(self, split: str, text: str, continues: bool = False) -> None:
        """Add a held-out document, or the next part of the one before."""
        held_out = self._splits.setdefault(split, _HeldOut())
        held_out.add(text, continues)
        if held_out.pending > self._limit // 4:
            self._compact(held_out)

    def _compact(self, held_out: _HeldOut) -> None:
        held_out.compact(self._mask)
        while len(held_out.keys) > self._limit:
            self._mask = self._mask << np.uint64(1) | np.uint64(1)
            for split in self._splits.values():
                split.compact(self._mask)

    def _prepare(self) -> None:
        """End the held-out text, once."""
        if self._looking:
            return
        self._looking = True
        for held_out in self._splits.values():
            held_out.end()
            self._compact(held_out)
        for held_out in self._splits.values():
            held_out.prepare()

    def look(self, text: str, continues: bool = False) -> None:
        """Look for the remembered pieces in a training document, or in its next part."""
        self._prepare()
        self._waiting += [text] if continues else [_END * PIECE, text]
        self._length += len(text) + PIECE * (not continues)
        if self._length >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        text = "".join(self._waiting)
        self._waiting, self._length = [], 0
        for start in range(0, len(text), _BUFFER):
            part = np.concatenate([self._kept, _codes(text[start : start + _BUFFER])])
            codes = _spaced(part, after_space=False)
            hashes = piece_hashes(codes)
            hashes = hashes[hashes & self._mask == 0]
            for held_out in self._splits.values():
                held_out.find(hashes)
            self._kept = codes[max(0, len(codes) - PIECE + 1) :]

    def share(self, split: str) -> float | None:
        """Return the share of a held-out split's pieces that training text has as well.

        None where it has no text.
        """
        self._prepare()
        self._waiting.append(_END * PIECE)
        self._flush()
        held_out = self._splits.get(split)
        if held_out is None or not held_out.counts.sum():
            return None
        return float(held_out.counts[held_out.seen].sum() / int(held_out.counts.sum()))
