"""How models compare: which is best, what is decided, what lies on a Pareto front, which to take.

The verdict box, the tables' bold figures, the plots and the findings all take their judgements from
here; studies too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flyweight.core.student import student
from flyweight.evaluation.compare import LEVEL, cap_lossy_verdict
from flyweight.records.floors import Floor
from flyweight.records.metric import Metric
from flyweight.records.run_summary import PairedComparison, Verdict
from flyweight.records.study_summary import LEAST_SEEDS, CellSummary
from flyweight.reports.models import ModelGroup, RankedModel, bits_or_infinity

Direction = Literal["lower", "higher"]
"""Which direction of a number is better."""

_OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "undecided": "undecided"}


@dataclass(frozen=True)
class PairedDifference:
    """The difference in bits per byte of one model minus another's, with its 95 % bounds.

    `verdict` is about the first.

    `paired` tells a bootstrap over the same text from the cautious rule used without one: intervals
    that do not overlap.
    """

    difference: float
    low: float
    high: float
    verdict: Verdict
    paired: bool
    why: str = ""
    """Why it is undecided although the bounds leave out 0, as a clause."""


def paired_difference(first: RankedModel, second: RankedModel) -> PairedDifference | None:
    """Return the difference in bits per byte, or None where the texts measured on differ."""
    if first.summary is second.summary:
        pair = first.pairs.get((first.model.name, second.model.name))
        if pair is not None:
            gap = pair.bits_per_byte
            return PairedDifference(
                gap.value, gap.low, gap.high, pair.verdict, True, _undecided(pair)
            )
        pair = first.pairs.get((second.model.name, first.model.name))
        if pair is not None:
            gap, verdict = pair.bits_per_byte, _OPPOSITE[pair.verdict]
            return PairedDifference(
                -gap.value, -gap.high, -gap.low, verdict, True, _undecided(pair)
            )
    a, b = first.bits, second.bits
    if a is None or b is None or first.text != second.text:
        return None
    low, high = a.low - b.high, a.high - b.low
    apart: Verdict = "undecided"
    if high < 0:
        apart = "better"
    elif low > 0:
        apart = "worse"
    same = (
        first.model.evaluate
        and second.model.evaluate
        and first.model.evaluate.corpus == second.model.evaluate.corpus
    )
    verdict = apart if same else cap_lossy_verdict(apart, first.lossy, second.lossy)
    return PairedDifference(
        a.value - b.value, low, high, verdict, False, _FLATTERED if verdict != apart else ""
    )


_FLATTERED = "the better one's tokens do not give the text back, which makes its figure too good"


def _undecided(pair: PairedComparison) -> str:
    """Return why a pair is undecided although its interval leaves out 0."""
    if pair.verdict == pair.bits_per_byte.verdict:
        return ""
    by_chance = pair.p_corrected is not None and pair.p_corrected >= LEVEL
    return (
        f"its own interval leaves 0 out, but {pair.comparisons} comparisons were made"
        if by_chance
        else _FLATTERED
    )


def tied_best(rankable: Sequence[RankedModel]) -> list[RankedModel]:
    """Return the models that no other beats decidedly in bits per byte, in the order given."""

    def beaten(ranked: RankedModel, other: RankedModel) -> bool:
        gap = paired_difference(ranked, other)
        return gap is not None and gap.verdict == "worse"

    return _unbeaten(rankable, beaten)


def decide(first: Metric, second: Metric) -> Verdict:
    """Compare two measurements of one quantity by their intervals, from the side of `first`."""
    higher, lower = first.low > second.high, first.high < second.low
    if not (higher or lower):
        return "undecided"
    return "better" if higher == (first.better == "higher") else "worse"


def tied_best_in(
    rankable: Sequence[RankedModel], metric: Callable[[RankedModel], Metric | None]
) -> list[RankedModel]:
    """Return the models that no other beats decidedly in a measured quantity.

    The unmeasured are left out.

    One noisy measurement of the fastest model does not lift the slow ones: a steadier model still
    beats those.
    """
    values = {each.label: value for each in rankable if (value := metric(each)) is not None}
    measured = [each for each in rankable if each.label in values]
    return _unbeaten(
        measured, lambda ranked, other: decide(values[ranked.label], values[other.label]) == "worse"
    )


def _unbeaten(
    rankable: Sequence[RankedModel], beaten: Callable[[RankedModel, RankedModel], bool]
) -> list[RankedModel]:
    return [
        each
        for each in rankable
        if not any(other is not each and beaten(each, other) for other in rankable)
    ]


def bold(
    rankable: Sequence[RankedModel], metric: Callable[[RankedModel], Metric | None] | None = None
) -> list[RankedModel]:
    """Return the models whose figure is bold: the best, and those not significantly worse.

    `metric` is None for bits per byte. Of noisy measurements only the `winner_in` is bold, and what
    measured exactly the same. None is bold where one model alone has a figure or all are alike.
    """
    measured = [each for each in rankable if metric is None or metric(each) is not None]
    if metric is None:
        best = tied_best(measured)
    elif any(value.low < value.high for each in measured if (value := metric(each))):
        winner = winner_in(measured, metric)
        best = [each for each in measured if winner and metric(each) == metric(winner)]
    else:
        best = tied_best_in(measured, metric)
    return best if len(best) < len(measured) else []


def winner_in(
    rankable: Sequence[RankedModel], metric: Callable[[RankedModel], Metric | None]
) -> RankedModel | None:
    """Return the best model in a noisy quantity, or None where nothing is decided.

    Of several that cannot be told apart it is the one with the tightest interval, if it beats
    every model outside the tie decidedly. Equal intervals go to the first in the order given.
    """
    values = {each.label: value for each in rankable if (value := metric(each)) is not None}
    tied = tied_best_in(rankable, metric)
    names = {each.label for each in tied}
    rest = [value for label, value in values.items() if label not in names]
    if not rest:
        return None
    winners = [
        each
        for each in tied
        if all(decide(values[each.label], other) == "better" for other in rest)
    ]

    def width(model: RankedModel) -> float:
        value = values[model.label]
        return (value.high - value.low) / abs(value.value) if value.value else math.inf

    return min(winners, key=width, default=None)


def pareto(points: Sequence[tuple[float, float]], more_is_better: bool = False) -> list[int]:
    """Return the indices of the points (x, y) that no other beats on both, ordered by x.

    Lower y is better; lower x too, unless `more_is_better`. A point is beaten by one that is at
    least as good on both and better on one; equal points stay together. Points that are not finite
    are left out.
    """
    sign = -1 if more_is_better else 1
    finite = [index for index, point in enumerate(points) if all(map(math.isfinite, point))]
    cost = {index: (sign * points[index][0], points[index][1]) for index in finite}

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b <= y and (a, b) != (x, y) for a, b in cost.values())

    return sorted(
        (index for index in finite if not beaten(*cost[index])), key=lambda index: points[index]
    )


@dataclass(frozen=True)
class Axis:
    """What quality is set against: a value per model, and which direction is better."""

    key: str
    title: str
    better: Literal["lower", "higher"]
    metric: Callable[[RankedModel], Metric | None]

    def front(self, rankable: Sequence[RankedModel]) -> list[RankedModel]:
        """Return the models worth having at their cost, ordered along the axis.

        Left out is a model that another beats decidedly in quality or in this axis, without being
        decidedly worse in the other.
        """
        values = {
            each.label: value for each in rankable if (value := self.metric(each)) is not None
        }
        measured = [each for each in rankable if each.label in values and each.bits is not None]

        def beaten(ranked: RankedModel, other: RankedModel) -> bool:
            gap = paired_difference(other, ranked)
            quality = "undecided" if gap is None else gap.verdict
            verdicts = (quality, decide(values[other.label], values[ranked.label]))
            return "better" in verdicts and "worse" not in verdicts

        return sorted(_unbeaten(measured, beaten), key=lambda each: values[each.label].value)

    def staircase(self, front: Sequence[RankedModel]) -> list[tuple[float, float]]:
        """Return the corners (value, bits per byte) of the line through a front, in order."""
        points = [(m.value, bits_or_infinity(each)) for each in front if (m := self.metric(each))]
        return [points[index] for index in pareto(points, self.better == "higher")]


def _disk(ranked: RankedModel) -> Metric | None:
    return (
        None if ranked.model.disk_bytes is None else Metric.exact(ranked.model.disk_bytes, "bytes")
    )


def _decode(ranked: RankedModel) -> Metric | None:
    return ranked.model.bench.decode_tokens_per_s if ranked.model.bench else None


def _flops(ranked: RankedModel) -> Metric | None:
    total = ranked.total("flops")
    return None if total is None else Metric.exact(total, "FLOPs")


AXES = {
    "disk": Axis("disk", "bytes on disk", "lower", _disk),
    "speed": Axis("speed", "generated tokens per second", "higher", _decode),
    "flops": Axis("flops", "total training FLOPs", "lower", _flops),
}


# --- floors ---


@dataclass(frozen=True)
class StrongestFloor:
    """The n-gram floor that is hardest to beat, and how the best model or cell compares with it.

    `value` is bits per byte for models, the study's metric for cells.
    """

    name: str
    value: float
    verdict: Verdict
    """About the best: `better` where its whole interval lies on the good side of the floor."""


def strongest_floor(group: ModelGroup) -> StrongestFloor | None:
    """Return the strongest floor of a group beside its best model.

    None without floors or rankable models.
    """
    floors = {name: floor for name, floor in group.floors.items() if name not in group.flattered}
    if not floors or not group.rankable:
        return None
    name = min(floors, key=lambda name: floors[name].bits_per_byte)
    value, best = floors[name].bits_per_byte, group.rankable[0].bits
    if best is None:
        return None
    return StrongestFloor(name, value, decide(best, Metric.exact(value, "bits/byte")))


# --- cells of a study ---


def cell_difference(
    first: CellSummary, second: CellSummary, metric: str
) -> tuple[float, float, float] | None:
    """Return first minus second over the seeds that both have: mean, low and high.

    Bounds are of Student's t at 95 %; perplexities are compared by their logarithms. None for fewer
    than three common seeds or values that are not finite.
    """
    by_seed = [
        {run.seed: run.metrics[metric] for run in cell.tested if metric in run.metrics}
        for cell in (first, second)
    ]
    pairs = [(value, by_seed[1][seed]) for seed, value in by_seed[0].items() if seed in by_seed[1]]
    if len(pairs) < LEAST_SEEDS or not all(
        map(math.isfinite, (end for pair in pairs for end in pair))
    ):
        return None
    if metric.endswith("perplexity"):
        pairs = [(math.log(a), math.log(b)) for a, b in pairs]
    return student([a - b for a, b in pairs])


def ranked_cells(
    cells: Sequence[CellSummary], metric: str, better: Direction = "lower"
) -> list[CellSummary]:
    """Return the cells that are results, the best mean first."""
    sign = 1 if better == "lower" else -1
    means = [(cell, spread.mean) for cell in cells if (spread := cell.spread(metric))]
    finite = [(cell, mean) for cell, mean in means if math.isfinite(mean)]
    return [cell for cell, _ in sorted(finite, key=lambda pair: sign * pair[1])]


def tied_best_cells(
    cells: Sequence[CellSummary], metric: str, better: Direction = "lower"
) -> list[CellSummary]:
    """Return the cell of best mean, and those not significantly worse than it seed by seed."""
    ranked = ranked_cells(cells, metric, better)
    if not ranked:
        return []
    best, *others = ranked
    return [best, *(cell for cell in others if not _worse(cell, best, metric, better))]


def _worse(cell: CellSummary, best: CellSummary, metric: str, better: Direction) -> bool:
    gap = cell_difference(cell, best, metric)
    if gap is None:
        return False
    _, low, high = gap
    return low > 0 if better == "lower" else high < 0


def bold_cells(
    cells: Sequence[CellSummary], metric: str, better: Direction = "lower"
) -> list[CellSummary]:
    """Return the cells whose figure is bold: as `bold`, none where all are alike."""
    tied = tied_best_cells(cells, metric, better)
    return tied if len(tied) < len(ranked_cells(cells, metric, better)) else []


def strongest_cell_floor(
    best: CellSummary, floors: Mapping[str, Floor], metric: str, better: Direction = "lower"
) -> StrongestFloor | None:
    """Return the strongest floor of a text by one metric, and how the best cell compares with it.

    None where floors do not have the metric. Without an interval nothing is decided.
    """
    values = {name: getattr(floor, metric, None) for name, floor in floors.items()}
    known = {name: value for name, value in values.items() if value is not None}
    spread = best.spread(metric)
    if not known or spread is None:
        return None
    pick = min if better == "lower" else max
    name = pick(known, key=lambda floor: known[floor])
    if spread.low is None or spread.high is None:
        return StrongestFloor(name, known[name], "undecided")
    cell = Metric(spread.mean, metric, better, spread.n, spread.low, spread.high)
    return StrongestFloor(
        name, known[name], decide(cell, Metric.exact(known[name], metric, better))
    )


def training_flops(cell: CellSummary) -> float:
    """Return the mean training FLOPs of a cell's runs."""
    return cell.flops


def front_cells(
    cells: Sequence[CellSummary],
    metric: str,
    better: Direction = "lower",
    cost: Callable[[CellSummary], float] = training_flops,
) -> list[CellSummary]:
    """Return the cells on the Pareto front of a metric's mean against a cost, by cost."""
    sign = 1 if better == "lower" else -1
    points = [
        (cell, (cost(cell), sign * spread.mean))
        for cell in cells
        if (spread := cell.spread(metric))
    ]
    return [points[index][0] for index in pareto([point for _, point in points])]


# --- which model to take ---

CLOSE = 0.01
"""How much worse than the best, as a share of its bits per byte, a smaller model may be."""


@dataclass(frozen=True)
class Picks:
    """Which models to take from a group, by what matters.

    `tied` are not significantly worse in quality than the `best`. `fastest` is None where speed is
    not decided; `alike` are not significantly slower than it. Both leave out the model itself.
    """

    best: RankedModel
    tied: tuple[RankedModel, ...]
    smallest: RankedModel | None
    fastest: RankedModel | None
    alike: tuple[RankedModel, ...]


def picks(group: ModelGroup) -> Picks | None:
    """Return the models to take, or None where no model is rankable."""
    rankable = group.rankable
    if not rankable:
        return None
    best = rankable[0]
    tied = tuple(each for each in tied_best(rankable) if each is not best)
    speed = AXES["speed"].metric
    fastest = winner_in(rankable, speed)
    fast = tied_best_in(rankable, speed) if fastest else []
    alike = tuple(each for each in fast if each is not fastest)
    return Picks(best, tied, _smallest(rankable), fastest, alike)


def _smallest(rankable: Sequence[RankedModel]) -> RankedModel | None:
    """Return the smallest model that is surely within `CLOSE` of the best.

    Equal sizes go to the better one.
    """
    sized = [
        each for each in rankable if each.model.disk_bytes is not None and within(each, rankable[0])
    ]
    return min(sized, key=lambda each: each.model.disk_bytes or 0) if sized else None


def within(ranked: RankedModel, best: RankedModel, share: float = CLOSE) -> bool:
    """Return whether a model is at most this share worse than the best, its whole interval."""
    if ranked is best:
        return True
    gap = paired_difference(ranked, best)
    return gap is not None and best.bits is not None and gap.high <= share * best.bits.value
