"""Claims held against a study's cells: who is compared with whom, by which test, and the verdict.

Validation chooses which model represents a group; the test split decides. Differences are taken
seed by seed and held against Student's t, so they tell how another seed would have come out, on
this text.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from flyweight.config.metrics import metric_kind
from flyweight.config.study import Finding, Group
from flyweight.config.units import format_flops
from flyweight.core.student import student, two_sided_p
from flyweight.records.study_summary import (
    LEAST_SEEDS,
    CellSummary,
    ClaimComparison,
    FindingSummary,
    Verdict,
)

LEVEL = 0.05
TARGETS = 3
"""Points of equal FLOPs at which two groups are compared: ends and middle of what both cover."""

SAME = 0.01
"""FLOPs this close are the same: runs end at whole steps."""


class CellKey(Protocol):
    """What a group names a cell by."""

    @property
    def model(self) -> str:
        """Name of its model in the study."""
        ...

    @property
    def data(self) -> str:
        """Name of its text."""
        ...

    @property
    def context(self) -> int:
        """Tokens of a window."""
        ...

    @property
    def budget(self) -> str:
        """Name of its budget."""
        ...

    @property
    def fields(self) -> Mapping[str, str]:
        """Values of the model's grid by path, as they are written."""
        ...


Placed = TypeVar("Placed", bound=CellKey)


@dataclass(frozen=True)
class Point:
    """A model's test metric by seed, its validation NLL, and the FLOPs they belong to.

    Measured or interpolated.
    """

    label: str
    flops: float
    validation: float
    values: Mapping[int, float]
    how: str


def evaluate_claim(
    finding: Finding, cells: Sequence[CellSummary], default_metric: str
) -> FindingSummary:
    """Return a finding's verdict from the cells of its study."""
    metric = finding.metric or default_metric
    finding = finding.model_copy(update={"metric": metric})
    compare = _equal_flops if finding.compare == "equal_flops" else _equal_cells
    contests = [
        contest
        for where, below, above in conditions(finding, cells)
        for contest in compare(finding, where, below, above, metric)
    ]
    return FindingSummary(
        claim=finding.claim,
        verdict=_verdict(finding, contests),
        metric=metric,
        method=_method(finding, contests),
        contests=tuple(contests),
    )


def select(group: Group, cells: Sequence[Placed]) -> list[Placed]:
    """Return the cells that a group names."""
    return [
        cell
        for cell in cells
        if (
            not group.model
            or any(fnmatch.fnmatchcase(cell.model, pattern) for pattern in group.model)
        )
        and (not group.data or cell.data in group.data)
        and (not group.context or cell.context in group.context)
        and (not group.budget or cell.budget in group.budget)
        and all(cell.fields.get(path) == written(value) for path, value in group.fields.items())
    ]


def written(value: object) -> str:
    """Return a field's value as cells name it: `rope`, `{kind: rope, fraction: 0.5}`."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {written(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- conditions ---


def conditions(
    finding: Finding, cells: Sequence[Placed]
) -> Iterator[tuple[str, list[Placed], list[Placed]]]:
    """Yield (where, below, above) for every combination of what neither group names.

    One side may have nothing there.

    Text, context, budget, model and such fields of grids as every cell of both sides has are these
    axes; a budget is none at equal FLOPs.
    """
    below, above = select(finding.below, cells), select(finding.above, cells)
    named = set(_named(finding.below) | _named(finding.above)) | (
        {"budget"} if finding.compare == "equal_flops" else set()
    )
    fields = set[str]().union(*(cell.fields for cell in (*below, *above)))
    fields = {path for path in fields if all(path in cell.fields for cell in (*below, *above))}
    axes = [
        axis
        for axis in ("data", "model", "context", "budget", *sorted(fields))
        if axis not in named
    ]
    groups: dict[tuple[Any, ...], tuple[list[Placed], list[Placed]]] = {}
    for side, members in enumerate((below, above)):
        for cell in members:
            groups.setdefault(tuple(_value(cell, axis) for axis in axes), ([], []))[side].append(
                cell
            )
    for key, (first, second) in groups.items():
        yield (
            ", ".join(_shown(axis, value) for axis, value in zip(axes, key, strict=True)),
            first,
            second,
        )


def _named(group: Group) -> set[str]:
    return {axis for axis in ("model", "data", "context", "budget") if getattr(group, axis)} | set(
        group.fields
    )


def _value(cell: CellKey, axis: str) -> Any:
    return (
        getattr(cell, axis)
        if axis in ("data", "model", "context", "budget")
        else cell.fields.get(axis)
    )


def _shown(axis: str, value: object) -> str:
    if axis in ("data", "model", "budget"):
        return str(value)
    return f"{axis} {value}"


def _equal_cells(
    finding: Finding,
    where: str,
    below: Sequence[CellSummary],
    above: Sequence[CellSummary],
    metric: str,
) -> list[ClaimComparison]:
    sound = [
        [_measured(cell, metric) for cell in side if cell.standing == "ok"]
        for side in (below, above)
    ]
    first, second = map(_best, sound)
    return [_compare_cells(finding, where, first, second, (below, above), _undecided(sound))]


def _measured(cell: CellSummary, metric: str) -> Point:
    values = {
        run.seed: math.log(run.metrics[metric]) if in_logs(metric) else run.metrics[metric]
        for run in cell.tested
    }
    return Point(cell.name, cell.flops, cell.validation, values, "measured")


def in_logs(metric: str) -> bool:
    """Return whether a metric is compared by its logarithm, as perplexities are."""
    return metric_kind(metric).logs


def _best(points: Sequence[Point]) -> Point | None:
    """Return the point that validation prefers.

    None where there is none, or no validation to choose among several by.
    """
    if _blind(points):
        return None
    return min(points, key=lambda point: point.validation, default=None)


def _blind(points: Sequence[Point]) -> bool:
    return len(points) > 1 and not all(math.isfinite(point.validation) for point in points)


def _undecided(sides: Sequence[Sequence[Point]]) -> str:
    return "no validation to choose by" if any(map(_blind, sides)) else ""


# --- equal FLOPs ---


def _equal_flops(
    finding: Finding,
    where: str,
    below: Sequence[CellSummary],
    above: Sequence[CellSummary],
    metric: str,
) -> list[ClaimComparison]:
    """Compare at the FLOPs of the upper group's runs which the lower group covers as well.

    At three of them at most.
    """
    lower, upper = _curves(below, metric), _curves(above, metric)
    targets = sorted({point.flops for curve in upper for point in curve})
    met, why = [], "no point of equal FLOPs: their budgets do not meet"
    for target in targets:
        there = [
            [p for curve in curves if (p := _at(curve, flops, finding.tolerance))]
            for curves, flops in ((lower, target * finding.flops), (upper, target))
        ]
        first, second = map(_best, there)
        if all(there):
            why = _undecided(there) or why
        if first and second and (not met or target > met[-1][0] * (1 + SAME)):
            met.append((target, first, second))
    if not met:
        return [_compare_cells(finding, where, None, None, (below, above), why)]
    chosen = sorted(
        {round(place * (len(met) - 1) / max(1, TARGETS - 1)) for place in range(TARGETS)}
    )
    return [
        _compare_cells(
            finding,
            f"{where}{', ' if where else ''}{_at_flops(target)}",
            first,
            second,
            (below, above),
        )
        for target, first, second in (met[place] for place in chosen)
    ]


def _at_flops(flops: float) -> str:
    return format_flops(flops)


def _curves(cells: Sequence[CellSummary], metric: str) -> list[list[Point]]:
    """Return the budget curve of every model: its sound cells by FLOPs."""
    curves = budget_curves([cell for cell in cells if cell.standing == "ok"])
    return [
        sorted((_measured(cell, metric) for cell in curve), key=lambda point: point.flops)
        for curve in curves
    ]


def budget_curves(cells: Sequence[Placed]) -> list[list[Placed]]:
    """Return the cells of each model at one context of one text: its budgets."""
    curves: dict[tuple[Any, ...], list[Placed]] = {}
    for cell in cells:
        curves.setdefault(
            (cell.data, cell.model, cell.context, *sorted(cell.fields.items())), []
        ).append(cell)
    return list(curves.values())


def _at(curve: Sequence[Point], flops: float, tolerance: float) -> Point | None:
    """Return a model at some FLOPs, or None where the curve does not reach them.

    Between two budgets it is on the line in log FLOPs. Elsewhere it is that of the nearest budget,
    if that is within `tolerance`.
    """
    nearest = min(curve, key=lambda point: abs(math.log(point.flops / flops)))
    if abs(nearest.flops / flops - 1) <= SAME:
        return nearest
    for left, right in pairwise(curve):
        if left.flops < flops < right.flops:
            way = math.log(flops / left.flops) / math.log(right.flops / left.flops)
            values = {
                seed: (1 - way) * value + way * right.values[seed]
                for seed, value in left.values.items()
                if seed in right.values
            }
            validation = (1 - way) * left.validation + way * right.validation
            return Point(
                f"{left.label} to {right.label}", flops, validation, values, "interpolated"
            )
    apart = abs(nearest.flops / flops - 1)
    if apart > tolerance:
        return None
    return Point(
        nearest.label,
        nearest.flops,
        nearest.validation,
        nearest.values,
        f"nearest, {100 * apart:.0f} % apart",
    )


# --- tests ---


def _compare_cells(
    finding: Finding,
    where: str,
    first: Point | None,
    second: Point | None,
    sides: tuple[Sequence[CellSummary], Sequence[CellSummary]],
    why: str = "",
) -> ClaimComparison:
    """Return one comparison with its paired t-test over the seeds that both sides have."""
    below, above = (
        point.label if point else " or ".join(cell.name for cell in side[:2])
        for point, side in zip((first, second), sides, strict=True)
    )
    if not all(sides):
        side, other = ("below", "above") if sides[0] else ("above", "below")
        why = f"only {side} has cells there, {other} has none"
        return ClaimComparison(
            where=where,
            below=below or "none",
            above=above or "none",
            below_flops=0,
            above_flops=0,
            how="",
            why=why,
        )
    if first is None or second is None:
        lost = [
            cell.name
            for side in sides
            if not any(c.standing == "ok" for c in side)
            for cell in side
        ]
        why = f"no sound run of {', '.join(lost[:3])}" if lost else why
        return ClaimComparison(
            where=where, below=below, above=above, below_flops=0, above_flops=0, how="", why=why
        )
    seeds = sorted(set(first.values) & set(second.values))
    logs = finding.metric is not None and in_logs(finding.metric)
    differences = [
        first.values[seed]
        - (
            second.values[seed] + math.log(finding.factor)
            if logs
            else finding.factor * second.values[seed]
        )
        for seed in seeds
    ]
    hows = {first.how, second.how} - {"measured"}
    comparison = ClaimComparison(
        where=where,
        below=below,
        above=above,
        below_flops=first.flops,
        above_flops=second.flops,
        how=", ".join(sorted(hows)) or "measured",
        factor=finding.factor,
        n=len(seeds),
    )
    if len(seeds) < LEAST_SEEDS:
        mean = math.fsum(differences) / len(seeds) if seeds else None
        short = f"{len(seeds)} seeds in common; a test needs {LEAST_SEEDS}"
        return comparison.model_copy(update={"difference": mean, "why": short})
    mean, low, high = student(differences)
    verdict: Verdict = "undecided"
    if high < 0:
        verdict = "confirmed"
    elif low > 0:
        verdict = "refuted"
    p = two_sided_p(mean, high - mean, len(seeds))
    return comparison.model_copy(
        update={"difference": mean, "low": low, "high": high, "p": p, "verdict": verdict}
    )


def _verdict(finding: Finding, contests: Sequence[ClaimComparison]) -> Verdict:
    """Return the verdict over all comparisons.

    A claim about every condition needs each of them (an intersection-union test, at the full level)
    and falls with a single one, a claim about some condition the other way round; what a single one
    decides is held to the level divided by their number (Bonferroni).
    """
    tested = [(contest.difference, contest.p) for contest in contests if contest.p is not None]
    tested = [
        (difference, p) for difference, p in tested if difference is not None and p is not None
    ]
    if not tested:
        return "undecided"
    strict = LEVEL / len(tested)
    everywhere = finding.holds == "everywhere"
    for sign, verdict, needs_all in ((-1, "confirmed", everywhere), (1, "refuted", not everywhere)):
        hits = [
            sign * difference > 0 and p <= (LEVEL if needs_all else strict)
            for difference, p in tested
        ]
        if all(hits) if needs_all else any(hits):
            return "confirmed" if verdict == "confirmed" else "refuted"
    return "undecided"


def _method(finding: Finding, contests: Sequence[ClaimComparison]) -> str:
    """Return how the verdict was reached, in words."""
    tested = [contest for contest in contests if contest.p is not None]
    counts = sorted({contest.n for contest in tested})
    if not contests:
        return "This study, or the piece of it that was run, has no cells to compare for it."
    parts = [
        f"Paired t-test over {' or '.join(map(str, counts))} seeds"
        if tested
        else "No comparison could be tested"
    ]
    if finding.compare == "equal_flops":
        share = (
            ""
            if finding.flops == 1
            else f", the first side at {finding.flops:g} times the FLOPs of the second"
        )
        parts.append(
            "at equal training FLOPs: between two budgets of a model on the straight line in log "
            "FLOPs, else its nearest run"
            f" within {100 * finding.tolerance:.0f} %{share}"
        )
    if finding.metric is not None and in_logs(finding.metric):
        parts.append("by logarithms, as everywhere with perplexities")
    if finding.factor != 1:
        parts.append(f"against {finding.factor:g} times the second side")
    if len(tested) > 1:
        needs = "all" if finding.holds == "everywhere" else "one"
        parts.append(
            f"{needs} of {len(tested)} comparisons must hold; what one decides alone is "
            f"Bonferroni-corrected"
        )
    if lost := len(contests) - len(tested):
        parts.append(f"{lost} could not be tested")
    return "; ".join(parts) + "."
