"""Is one model better than another? Paired bootstrap over the units both were scored on. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from flyweight.errors import RequestError
from flyweight.evaluate.intervals import UnitScores, interval

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Difference:
    """First model minus second with its 95 % interval; `better` means that the first's is lower for certain."""

    value: float
    low: float
    high: float
    unit: str

    @property
    def verdict(self) -> Verdict:
        """Decided only where the interval leaves out 0."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "undecided"

    def json(self) -> dict[str, Any]:
        """Return the difference and its verdict as plain data."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Paired:
    """Two models on the same text: per token (None under different tokenizers, `why` says so) and per byte."""

    nll: Difference | None
    bits_per_byte: Difference
    n_units: int
    kind: str
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict by bits per byte, which every pair of models has."""
        return self.bits_per_byte.verdict

    def json(self) -> dict[str, Any]:
        """Return both differences as plain data."""
        rest = {"verdict": self.verdict, "n_units": self.n_units, "kind": self.kind, "why": self.why}
        return {"nll": self.nll.json() if self.nll else None, "bits_per_byte": self.bits_per_byte.json(), **rest}


def paired(a: UnitScores, b: UnitScores, seed: int = 0) -> Paired:
    """Compare two models' unit scores; raise RequestError where they were not scored on the same units of the same text.

    Under one tokenizer both numbers are compared; under two, bits per byte alone, and only over documents: blocks of
    tokens then hold different text.
    """
    if (a.corpus, a.split) != (b.corpus, b.split):
        raise RequestError(
            f"{_where(a)} and {_where(b)} are different texts: a comparison needs both models evaluated on the same split"
            " of the same corpus (`flyweight compare A B --data DATA` does that)"
        )
    same = a.tokenizer == b.tokenizer
    if not same and (a.kind, b.kind) != ("document", "document"):
        raise RequestError(
            "the models have different tokenizers and the text has too few documents to pair by: blocks of tokens do not"
            " hold the same text; use a corpus with at least 20 documents"
        )
    if len(a.nll) != len(b.nll) or a.kind != b.kind or (same and not np.array_equal(a.counts, b.counts)):
        raise RequestError(
            f"the models were scored in different units ({len(a.nll)} {a.kind}s and {len(b.nll)} {b.kind}s):"
            " evaluate both with the same window"
        )
    change = a.nll - b.nll  # (U,)
    # Bytes are shared out by tokens, so that two tokenizers give the same document not quite the same size.
    size = (a.bytes + b.bytes) / 2 * math.log(2)
    nll = _difference(change, a.counts.astype(np.float64), "nats/token", seed) if same else None
    why = "" if same else "different tokenizers: nats per token are not comparable"
    return Paired(nll, _difference(change, size, "bits/byte", seed), len(change), a.kind, why)


def _difference(change: np.ndarray, size: np.ndarray, unit: str, seed: int) -> Difference:
    low, high = interval(change, size, seed)
    return Difference(float(change.sum() / size.sum()), low, high, unit)


def _where(scores: UnitScores) -> str:
    return f"corpus {scores.corpus[:12] or '(unnamed)'} split {scores.split}"


@dataclass(frozen=True)
class Row:
    """One model of a table: its own numbers, and how it stands to the reference model (None for the reference)."""

    name: str
    nll: float
    bits_per_byte: float
    paired: Paired | None

    def json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        against = self.paired.json() if self.paired else None
        return {"name": self.name, "nll": self.nll, "bits_per_byte": self.bits_per_byte, "paired": against}


def table(models: Mapping[str, UnitScores], reference: str | None = None, seed: int = 0) -> list[Row]:
    """Return the models by bits per byte, best first, each paired with `reference` (the best unless named).

    Raises RequestError for an unknown reference, for fewer than two models, and as `paired` does.
    """
    if len(models) < 2:
        raise RequestError(f"a comparison needs at least two models, not {len(models)}")
    per_byte = {name: float(s.nll.sum() / s.bytes.sum() / math.log(2)) for name, s in models.items()}
    order = sorted(models, key=per_byte.__getitem__)
    best = reference or order[0]
    if best not in models:
        raise RequestError(f"reference {best!r} is not among the models: {', '.join(models)}")
    return [
        Row(
            name,
            float(models[name].nll.sum() / models[name].counts.sum()),
            per_byte[name],
            None if name == best else paired(models[name], models[best], seed),
        )
        for name in order
    ]
