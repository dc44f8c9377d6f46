"""Decide whether one model is better than another, by a bootstrap over paired units; no torch.

Several comparisons at once are corrected after Holm (1979). With a reference named beforehand, the
correction is for one comparison per other model. With the best model as reference, it is for all
pairs, because the same text chose the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from flyweight.config.metrics import TASK_METRICS, Better, metric_kind
from flyweight.errors import RequestError
from flyweight.evaluation.resampling import (
    CORRECTED_RESAMPLES,
    RESAMPLES_EACH,
    Ratio,
    UnitScores,
    interval,
    p_value,
)
from flyweight.records.run_summary import Difference, Verdict

LEVEL = 0.05
ANSWERS = frozenset(("exact_match", "f1", "rouge1", "rouge2", "rougeL"))
"""Metrics of single answers to a task: models of all tokenizers can be paired by them."""

BITS = "bits_per_byte"
"""The metric that decides unless another is named: models of all tokenizers have it."""


def cap_lossy_verdict(verdict: Verdict, first_lossy: bool, second_lossy: bool) -> Verdict:
    """Return a verdict by bits per byte across tokenizers; a model that loses text cannot win.

    Its bits per byte are too good.
    """
    flattered = (verdict == "better" and first_lossy) or (verdict == "worse" and second_lossy)
    return "undecided" if flattered else verdict


@dataclass(frozen=True)
class Paired:
    """Two models on the same text, per token and per byte.

    `lossy` tells of two tokenizers which do not give the text back. `metrics` has what both were
    measured in beside the likelihood, under one tokenizer. `by` names the metric that decides.
    """

    nll: Difference | None
    bits_per_byte: Difference
    n_units: int
    kind: str
    why: str = ""
    p: float | None = None
    lossy: tuple[bool, bool] = (False, False)
    metrics: Mapping[str, Difference] = field(default_factory=dict)
    by: str = BITS

    @property
    def decisive(self) -> Difference:
        """The difference that decides: in bits per byte, or in another metric."""
        return self.bits_per_byte if self.by == BITS else self.metrics[self.by]

    @property
    def verdict(self) -> Verdict:
        """The verdict by the metric that decides."""
        if self.by != BITS:
            return self.decisive.verdict
        return cap_lossy_verdict(self.bits_per_byte.verdict, *self.lossy)

    @property
    def flattered(self) -> bool:
        """Whether the verdict is undecided only because the better one's tokens lose text."""
        return self.verdict != self.decisive.verdict

    def json(self) -> dict[str, Any]:
        """Return both differences as plain data."""
        rest = {
            "verdict": self.verdict,
            "n_units": self.n_units,
            "kind": self.kind,
            "why": self.why,
        }
        return {
            "nll": self.nll.model_dump() if self.nll else None,
            "bits_per_byte": self.bits_per_byte.model_dump(),
            **rest,
            "metrics": {name: difference.model_dump() for name, difference in self.metrics.items()},
        }


def paired(a: UnitScores, b: UnitScores, seed: int = 0, tested: int = 0, by: str = BITS) -> Paired:
    """Compare two models' unit scores.

    Raises RequestError where they were not scored on the same units of the same text. With a
    number of comparisons that are `tested` together there is a p-value of the difference in the
    metric `by`, uncorrected.

    Under one tokenizer both numbers are compared; under two, bits per byte and the scores of a
    task's answers, and only over documents or contexts: blocks of tokens hold different text.
    """
    if (refusal := _refusal(a, b)) is not None:
        raise RequestError(refusal)
    same = a.tokenizer == b.tokenizer
    change = a.text - b.text  # (U,)
    # Bytes are shared out by tokens: two tokenizers give a document slightly different sizes.
    size = (a.bytes + b.bytes) / 2 * math.log(2)
    nll = (
        _difference(a.nll - b.nll, a.counts.astype(np.float64), "nats/token", seed)
        if same
        else None
    )
    why = "" if same else "different tokenizers: nats per token are not comparable"
    lossy = (False, False) if same else (a.lossy, b.lossy)
    if any(lossy):
        why += "; tokens that do not give the text back make bits per byte too good"
    both = sorted(a.metrics.keys() & b.metrics.keys() & (a.metrics.keys() if same else ANSWERS))
    if by != BITS:
        if by not in both:
            raise RequestError(_unmeasured(by, same))
        ratio = _change(a, b, by)
        change, size_of_by = ratio.sums, ratio.sizes
    else:
        size_of_by = size
    p = None
    if tested:
        resamples = max(CORRECTED_RESAMPLES, RESAMPLES_EACH * tested)
        known = np.isfinite(change).all()
        p = p_value(change, size_of_by, seed, resamples) if known else 1.0
    return Paired(
        nll=nll,
        bits_per_byte=_difference(a.text - b.text, size, "bits/byte", seed),
        n_units=len(change),
        kind=a.kind,
        why=why,
        p=p,
        lossy=lossy,
        metrics={name: _metric_difference(a, b, name, seed) for name in both},
        by=by,
    )


def _unmeasured(metric: str, same: bool) -> str:
    if metric in TASK_METRICS.keys() - ANSWERS:
        return (
            f"{metric} is of all answers or tokens together and cannot be paired: compare models "
            f"on a task by {', '.join(sorted(ANSWERS))}, or by bits_per_byte of the completions"
        )
    if metric in ANSWERS:
        return f"{metric} is measured on a task: name one with --task"
    if not same:
        return (
            f"{metric} is measured for each token, and the models have different tokenizers: "
            f"compare them by bits per byte"
        )
    return f"{metric} was not measured: evaluate both models with --metrics {metric}"


def _change(a: UnitScores, b: UnitScores, name: str) -> Ratio:
    """Return the difference of a metric of both models as sums over units."""
    first, second = a.metrics[name], b.metrics[name]
    return Ratio(first.sums - second.sums, first.sizes)


def _metric_difference(a: UnitScores, b: UnitScores, name: str, seed: int) -> Difference:
    kind, change = metric_kind(name), _change(a, b, name)
    return _difference(change.sums, change.sizes, kind.unit, seed, kind.better)


def _refusal(a: UnitScores, b: UnitScores) -> str | None:
    """Return why two models' scores cannot be paired, or None where they can."""
    if (a.corpus, a.split) != (b.corpus, b.split):
        return (
            f"the models were evaluated on different texts, {_where(a, b)} and {_where(b, a)}: "
            "name one text for both, flyweight compare A B --data DATA"
        )
    same = a.tokenizer == b.tokenizer
    if not same and "block" in (a.kind, b.kind):
        return (
            "the models have different tokenizers and the text has too few documents to pair by: "
            "blocks of tokens do not hold the same text; use a corpus with at least 20 documents"
        )
    if (
        len(a.nll) != len(b.nll)
        or a.kind != b.kind
        or (same and not np.array_equal(a.counts, b.counts))
    ):
        return (
            f"the models were scored in different units ({len(a.nll)} {a.kind}s and {len(b.nll)} "
            f"{b.kind}s): evaluate both with the same window"
        )
    return None


def _difference(
    change: np.ndarray, size: np.ndarray, unit: str, seed: int, better: Better = "lower"
) -> Difference:
    low, high = interval(change, size, seed)
    return Difference.of(float(change.sum() / size.sum()), low, high, unit, better)


def _where(scores: UnitScores, other: UnitScores) -> str:
    """Return the name of a text for a message.

    Where both texts have one name, the beginning of the fingerprint is added.
    """
    alike = (scores.name, scores.split) == (other.name, other.split)
    mark = f" ({scores.corpus[:8]})" if alike or not scores.name else ""
    return f"the {scores.split} split of {scores.name or 'an unnamed corpus'}{mark}"


@dataclass(frozen=True)
class ComparedModel:
    """One model of a table: its own numbers, and its comparison with the reference model.

    `paired` is None for the reference itself. `p` is corrected for all comparisons of the table;
    `verdict` is decided only where that and the interval agree.
    """

    name: str
    nll: float
    bits_per_byte: float
    paired: Paired | None
    p: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the model is better than the reference, corrected for the other comparisons."""
        if self.paired is None or self.p is None:
            return None
        return self.paired.verdict if self.p < LEVEL else "undecided"

    def json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        against = self.paired.json() if self.paired else None
        rest = {
            "p": self.paired.p if self.paired else None,
            "p_corrected": self.p,
            "verdict": self.verdict,
        }
        return {
            "name": self.name,
            "nll": self.nll,
            "bits_per_byte": self.bits_per_byte,
            "metrics": dict(self.metrics),
            "paired": against,
            **rest,
        }


@dataclass(frozen=True)
class Comparison:
    """Models by one metric, bits per byte unless another is named, best first.

    `pairs` holds every pair of the family by its two names.
    """

    rows: tuple[ComparedModel, ...]
    reference: str
    chosen: bool
    pairs: Mapping[tuple[str, str], Paired]
    corrected: Mapping[tuple[str, str], float]
    metric: str = BITS

    @property
    def family(self) -> int:
        """The number of comparisons that p-values are corrected for."""
        return len(self.pairs)

    def verdict(self, first: str, second: str) -> Verdict:
        """Return whether the first model of a pair is better, corrected for other comparisons."""
        if self.corrected[first, second] < LEVEL:
            return self.pairs[first, second].verdict
        return "undecided"

    def json(self) -> dict[str, Any]:
        """Return the table and all pairs as plain data."""
        pairs = [
            {
                **{"first": a, "second": b, **pair.json(), "verdict": self.verdict(a, b)},
                **{"p": pair.p, "p_corrected": self.corrected[a, b]},
            }
            for (a, b), pair in self.pairs.items()
        ]
        correction = {
            "method": "holm" if self.family > 1 else None,
            "comparisons": self.family,
            "level": LEVEL,
        }
        rows = [row.json() for row in self.rows]
        return {
            "models": rows,
            "metric": self.metric,
            "reference": self.reference,
            "pairs": pairs,
            "correction": correction,
        }


def compare_models(
    models: Mapping[str, UnitScores],
    reference: str | None = None,
    seed: int = 0,
    metric: str = BITS,
) -> Comparison:
    """Return the models by a metric, best first, each paired with `reference`.

    The reference is the best model unless named. Raises RequestError for an unknown reference, for
    fewer than two models, for a metric that some model was not measured in, and as `paired` does.
    """
    if len(models) < 2:
        raise RequestError(f"a comparison needs at least two models, not {len(models)}")
    per_byte = {
        name: float(s.text.sum() / s.bytes.sum() / math.log(2)) for name, s in models.items()
    }
    values = per_byte
    if metric != BITS:
        if any(metric not in scores.metrics for scores in models.values()):
            raise RequestError(_unmeasured(metric, same=True))
        values = {
            name: metric_kind(metric).sign * scores.metrics[metric].value
            for name, scores in models.items()
        }
    order = sorted(models, key=values.__getitem__)
    best = reference or order[0]
    if best not in models:
        raise RequestError(f"reference {best!r} is not among the models: {', '.join(models)}")
    others = [name for name in order if name != best]
    # The differences that are tested chose the best model; so all pairs count as tested.
    matches = [(name, best) for name in others]
    if reference is None:
        matches += [(b, a) for at, a in enumerate(others) for b in others[at + 1 :]]
    pairs = {
        (a, b): paired(models[a], models[b], seed, tested=len(matches), by=metric)
        for a, b in matches
    }
    corrected = dict(zip(pairs, holm([pair.p or 0.0 for pair in pairs.values()]), strict=True))
    rows = [
        ComparedModel(
            name,
            float(models[name].nll.sum() / models[name].counts.sum()),
            per_byte[name],
            pairs.get((name, best)),
            corrected.get((name, best)),
            {key: ratio.value for key, ratio in models[name].metrics.items()},
        )
        for name in order
    ]
    return Comparison(tuple(rows), best, reference is None, pairs, corrected, metric)


def comparable_groups(models: Mapping[str, UnitScores]) -> list[dict[str, UnitScores]]:
    """Return the models in families; all models of a family can be paired with each other."""
    grouped: list[dict[str, UnitScores]] = []
    for name, scores in models.items():
        for family in grouped:
            if all(_refusal(scores, other) is None for other in family.values()):
                family[name] = scores
                break
        else:
            grouped.append({name: scores})
    return grouped


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for several comparisons (Holm 1979).

    The chance that any verdict is wrong stays that of one comparison.
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def needed_text(pair: Paired, comparisons: int = 1) -> float:
    """Return how many times as much text would decide an undecided pair in four cases of five.

    It holds if the difference that decides is really the one measured, the text like this one,
    and the spread between its units the same: half-widths shrink with the root of the number of
    units. Infinite for no difference at all.
    """
    bits, normal = pair.decisive, NormalDist()
    if bits.value == 0:
        return math.inf
    spread = (bits.high - bits.low) / 2 / normal.inv_cdf(0.975)  # the standard error
    critical = normal.inv_cdf(1 - LEVEL / comparisons / 2)
    return ((critical + normal.inv_cdf(0.8)) * spread / bits.value) ** 2
