"""Confidence intervals over documents or blocks of text, never over tokens.

Neighbouring tokens are not independent. No torch here: comparisons and reports read these arrays
without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np

from flyweight.config.metrics import MetricKind
from flyweight.core.files import new_file, reason
from flyweight.errors import FlyweightError, RequestError

UNITS = "units.safetensors"
"""The file of an evaluation that holds its UnitScores."""

SUMS, SIZES = "sums.", "sizes."
"""What the names of a metric's two arrays begin with in that file."""

RESAMPLES = 2_000
CORRECTED_RESAMPLES = 10_000
"""More for p-values: a correction for several comparisons asks for tails far out."""
RESAMPLES_EACH = 400
"""And as many for each comparison: with fewer, the least p-value times all of them is over 5 %."""
MIN_DOCUMENTS = 20
MIN_BLOCKS = 10

UnitKind = Literal["document", "block", "context"]
"""What is resampled: documents of a text, equal pieces of it, or the contexts of a task."""


@dataclass(frozen=True, eq=False)
class Units:
    """The resampling units of a split: unit u holds the targets [starts[u], starts[u + 1]).

    Target j is the split's token j + 1, the first token being context only. `starts` is int64 and
    ends with the number of targets.
    """

    kind: UnitKind
    starts: np.ndarray  # (U + 1,)

    @property
    def counts(self) -> np.ndarray:
        """Targets in every unit, (U,)."""
        return np.diff(self.starts)

    def of(self, targets: np.ndarray) -> np.ndarray:
        """Return the unit of each target (n,)."""
        return np.searchsorted(self.starts, targets, side="right") - 1


@dataclass(frozen=True, eq=False)
class Ratio:
    """A metric as sums over units (U,): its value is sum(sums) / sum(sizes), both float64."""

    sums: np.ndarray
    sizes: np.ndarray

    @property
    def value(self) -> float:
        """The metric's value over all units."""
        return float(self.sums.sum() / self.sizes.sum())

    @classmethod
    def of(cls, totals: np.ndarray, counts: np.ndarray, kind: MetricKind) -> Ratio:
        """Return the ratio of a metric's summed scores.

        It is over all targets, or over units, where each unit's mean counts the same.
        """
        if kind.over == "targets":
            return cls(totals, counts.astype(np.float64))
        return cls(totals / np.maximum(counts, 1), (counts > 0).astype(np.float64))


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Summed NLL (nats) of every resampling unit, with what makes two models' arrays comparable.

    `corpus` and `tokenizer` are fingerprints: only models scored on the same text can be paired,
    and per-token numbers compare only under one tokenizer. `lossy`: the tokens do not give the text
    back; the packed corpus says so, not the file. `marks` is the part of `nll` on tokens without
    bytes, such as the end of a document; None where the text has none. Bytes are shared out by the
    other targets.
    """

    kind: UnitKind
    nll: np.ndarray  # (U,) float64
    counts: np.ndarray  # (U,) int64
    bytes: np.ndarray  # (U,) float64
    split: str
    corpus: str = ""
    tokenizer: str = ""
    lossy: bool = False
    marks: np.ndarray | None = None  # (U,) float64
    name: str = ""
    """What its corpus is called, in messages alone."""
    metrics: Mapping[str, Ratio] = field(default_factory=dict)
    """Metrics that were asked for, by name."""

    @property
    def text(self) -> np.ndarray:
        """NLL (nats) of the tokens that encode text, (U,): what bits per byte count."""
        return self.nll if self.marks is None else self.nll - self.marks

    def labelled(self, corpus: str, tokenizer: str) -> UnitScores:
        """Return the same scores with the fingerprints of their corpus and tokenizer."""
        return replace(self, corpus=corpus, tokenizer=tokenizer)

    def save(self, path: Path) -> None:
        """Write the arrays and labels as one safetensors file.

        All labels are one JSON text: safetensors writes several in any order, and so other bytes.
        """
        from safetensors.numpy import save_file

        arrays = {"nll": self.nll, "counts": self.counts, "bytes": self.bytes}
        if self.marks is not None:
            arrays["marks"] = self.marks
        for name, ratio in self.metrics.items():
            arrays[f"{SUMS}{name}"], arrays[f"{SIZES}{name}"] = ratio.sums, ratio.sizes
        labels = {
            "kind": self.kind,
            "split": self.split,
            "corpus": self.corpus,
            "tokenizer": self.tokenizer,
        }
        with new_file(path) as file:
            save_file(arrays, file, metadata={"labels": json.dumps(labels)})

    @classmethod
    def load(cls, path: Path) -> UnitScores:
        """Read what `save` wrote.

        Raises FlyweightError that names the file when it is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                labels = json.loads((file.metadata() or {})["labels"])
                arrays = {name: file.get_tensor(name) for name in ("nll", "counts", "bytes")}
                if "marks" in file.keys():  # noqa: SIM118 - an open file is no mapping
                    arrays["marks"] = file.get_tensor("marks")
                metrics = {
                    key.removeprefix(SUMS): Ratio(
                        file.get_tensor(key), file.get_tensor(key.replace(SUMS, SIZES, 1))
                    )
                    for key in sorted(file.keys())
                    if key.startswith(SUMS)
                }
            return cls(
                _unit_kind(labels["kind"]),
                **arrays,
                split=labels["split"],
                corpus=labels["corpus"],
                tokenizer=labels["tokenizer"],
                metrics=metrics,
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise FlyweightError(
                f"{path}: not a file of unit scores ({reason(error)}); evaluate the model again"
            ) from error


def _unit_kind(name: str) -> UnitKind:
    """Return a kind of unit by its name; raise ValueError for another."""
    for kind in get_args(UnitKind):
        if kind == name:
            return kind
    raise ValueError(f"{name!r} is not a kind of unit")


def split_units(tokens: int, documents: np.ndarray, window: int) -> Units:
    """Cut a split of `tokens` tokens into documents or into contiguous blocks.

    Blocks are used where fewer than 20 documents hold targets. A block has 1 % of the targets, but
    at least a window. A split shorter than ten windows is still cut into ten blocks; its interval
    is rough. `documents` are the offsets of their
    first tokens. Raises RequestError for fewer than three tokens: one target has no spread.
    """
    targets = tokens - 1
    if targets < 2:
        raise RequestError(
            f"this split has {tokens} tokens: at least 3 are needed to measure a likelihood and "
            "its interval"
        )
    # A document's first token is the target at its offset - 1; the split's first is not a target.
    edges = np.append(np.clip(np.asarray(documents, np.int64) - 1, 0, None), targets)
    full = np.diff(edges) > 0
    if int(full.sum()) >= MIN_DOCUMENTS:
        starts = np.append(edges[:-1][full], targets)
        starts[0] = 0
        return Units("document", starts)
    size = max(math.ceil(targets / 100), window)
    blocks = max(targets // size, min(MIN_BLOCKS, targets))
    # Equal blocks rather than full ones and a rest: a short last block would weigh as much in the
    # resampling.
    starts = np.arange(blocks + 1, dtype=np.int64) * targets // blocks
    return Units("block", starts)


def interval(
    numerators: np.ndarray, denominators: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of sum(numerators) / sum(denominators), both (U,).

    Percentile bootstrap of the ratio over units, with tails widened for few units (Hesterberg 2015,
    "expanded percentile"). The plain interval is too narrow by sqrt((U - 1) / U), and uses the
    normal distribution in place of the t distribution.
    """
    ratios = _resampled(numerators, denominators, seed, resamples)
    tail = _expanded_tail(len(numerators))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def jackknife_interval(value: float, left_out: np.ndarray) -> tuple[float, float]:
    """Return the 95 % jackknife interval of a statistic around its `value` over all units.

    `left_out` (U,) has the statistic without each unit. It suits counts of different things, which
    a bootstrap makes too few because it draws units twice (Heltshe and Forrester 1983).
    Raises ValueError for fewer than two units.
    """
    units = len(left_out)
    if units < 2:
        raise ValueError(f"{units} units: an interval needs at least two")
    variance = (units - 1) / units * float(((left_out - left_out.mean()) ** 2).sum())
    half = _student(NormalDist().inv_cdf(0.975), units - 1) * math.sqrt(variance)
    return value - half, value + half


def p_value(
    numerators: np.ndarray,
    denominators: np.ndarray,
    seed: int = 0,
    resamples: int = CORRECTED_RESAMPLES,
) -> float:
    """Return the two-sided p-value of sum(numerators) / sum(denominators) being 0.

    It is the p at which an `interval` of level 1 - p would touch 0. Never 0: the smallest is that
    of one resample in `resamples` + 1 beyond 0 (Davison and Hinkley 1997, section 4.2).
    """
    ratios = _resampled(numerators, denominators, seed, resamples)
    beyond = min(int((ratios <= 0).sum()), int((ratios >= 0).sum()))
    tail = min(0.5, (beyond + 1) / (resamples + 1))
    units, normal = len(numerators), NormalDist()
    # The expanded tail of `interval`, solved for its level.
    t = -normal.inv_cdf(tail) * math.sqrt((units - 1) / units)
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, units - 1) < t else (low, middle)
    return min(1.0, 2 * normal.cdf(-low))


def _resampled(
    numerators: np.ndarray, denominators: np.ndarray, seed: int, resamples: int
) -> np.ndarray:
    """Return the ratio of sums in every resample of the units, (resamples,)."""
    units = len(numerators)
    if units < 2 or numerators.shape != denominators.shape:
        raise ValueError(
            f"{units} and {len(denominators)} units: an interval needs at least two, in equal "
            "number"
        )
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    chunk = max(1, 4_000_000 // units)
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        drawn = rng.integers(units, size=(stop - start, units))  # (resamples, U)
        ratios[start:stop] = numerators[drawn].sum(1) / denominators[drawn].sum(1)
    return ratios


def _expanded_tail(units: int) -> float:
    """Return the percentile to cut at either end for a coverage of 95 % over `units` units."""
    normal = NormalDist()
    t = _student(normal.inv_cdf(0.975), units - 1)
    return normal.cdf(-t * math.sqrt(units / (units - 1)))


def _student(z: float, free: int) -> float:
    """Return Student's t quantile where the normal one is z, by an expansion.

    Abramowitz and Stegun 26.7.5.
    """
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
