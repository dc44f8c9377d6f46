"""How much of the held-out text also stands in the training text, line by line, in bounded memory."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

SHORTEST = 20
"""Lines of fewer characters (stripped) are not counted: `return None` says nothing."""
LIMIT = 1 << 21
"""Different lines remembered; beyond it, a fixed fraction of all lines, chosen by their hash, stands for the rest."""


def line_hashes(text: str) -> np.ndarray:
    """Return the 64-bit hashes of a text's lines, stripped, that have at least SHORTEST characters: (lines,) uint64."""
    lines = (line.strip() for line in text.split("\n"))
    raw = b"".join(blake2b(line.encode(), digest_size=8).digest() for line in lines if len(line) >= SHORTEST)
    return np.frombuffer(raw, dtype="<u8")


class Overlap:
    """Remember the lines of held-out splits, then look for them in the training text.

    Every held-out split must be complete before the first training text.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._mask = np.uint64(0)
        self._lines: dict[str, dict[str, np.ndarray]] = {}
        self._new: dict[str, list[np.ndarray]] = {}

    def remember(self, split: str, text: str) -> None:
        """Add held-out text."""
        hashes = line_hashes(text)
        self._new.setdefault(split, []).append(hashes[hashes & self._mask == 0])
        if sum(map(len, self._new[split])) > self._limit // 4:
            self._compact(split)

    def _compact(self, split: str) -> None:
        keys, inverse = np.unique(np.concatenate([self._kept(split, "keys"), *self._new.pop(split, [])]), return_inverse=True)
        counts = np.ones(len(inverse), np.int64)
        old = self._kept(split, "counts")
        counts[: len(old)] = old
        self._lines[split] = {"keys": keys, "counts": np.bincount(inverse, counts, len(keys)).astype(np.int64)}
        while len(self._kept(split, "keys")) > self._limit:
            self._mask = self._mask << np.uint64(1) | np.uint64(1)
            for name, kept in self._lines.items():
                chosen = kept["keys"] & self._mask == 0
                self._lines[name] = {what: array[chosen] for what, array in kept.items()}

    def _kept(self, split: str, what: str) -> np.ndarray:
        return self._lines.get(split, {}).get(what, np.empty(0, np.uint64 if what == "keys" else np.int64))

    def look(self, text: str) -> None:
        """Look for the remembered lines in a training text."""
        for split in list(self._new):
            self._compact(split)
        hashes = line_hashes(text)
        hashes = hashes[hashes & self._mask == 0]
        for kept in self._lines.values():
            keys = kept["keys"]
            if not len(keys) or not len(hashes):
                continue
            found = kept.setdefault("found", np.zeros(len(keys), bool))
            at = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
            found[at[keys[at] == hashes]] = True

    def share(self, split: str) -> float | None:
        """Return the share of a held-out split's lines that training text has as well; None where it has no long line."""
        if split in self._new:
            self._compact(split)
        counts, found = self._kept(split, "counts"), self._lines.get(split, {}).get("found")
        total = int(counts.sum())
        if not total:
            return None
        return float(counts[found].sum() / total) if found is not None else 0.0
