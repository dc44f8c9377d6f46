"""Models that were trained by several seeds: means over them, and their spread."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean

from flyweight.config.units import format_bits
from flyweight.reports.layouts.content import LinkedCell, first_missing, missing_cell
from flyweight.reports.layouts.measured_run import DASH, MeasuredRun, MeasuredTraining

SLICES = 12
"""Parts of a training whose mean loss is one point of a curve."""

Losses = Callable[[Sequence[float]], float]
"""What is read of the mean losses of a training's slices."""


def seeds_of(run: MeasuredRun, variant: str) -> list[str]:
    """Return the stages of a variant, one for each seed: `bottleneck-0`, or `bottleneck` alone."""
    named = re.compile(rf"{re.escape(variant)}(-\d+)?")
    return [name for name in run.stages if named.fullmatch(name)]


def over_seeds(
    run: MeasuredRun, variant: str, cell: Callable[[str], LinkedCell], write: Callable[[float], str]
) -> LinkedCell:
    """Return the mean of a number over the seeds, with the least and the largest as its range.

    It is missing where one seed's is.
    """
    names = seeds_of(run, variant)
    if not names:
        return missing_cell(run.absent(f"{variant}-0"))
    cells = [cell(name) for name in names]
    if why := first_missing(cells):
        return missing_cell(why)
    numbers = [each.number for each in cells if each.number is not None]
    low, high, mean = min(numbers), max(numbers), fmean(numbers)
    spread = f"{write(low)}{DASH}{write(high)}" if low < high else ""
    return LinkedCell(
        value=mean,
        unit=cells[0].unit,
        text=write(mean),
        sub=spread,
        low=low,
        high=high,
        artifacts=tuple(name for each in cells for name in each.artifacts),
        setting=f"mean of {len(numbers)} seeds; range from the least to the largest",
    )


def slices(training: MeasuredTraining) -> list[tuple[float, float]]:
    """Return step and mean training loss of each slice of a training, in nats per token."""
    steps, losses = training.curve.step, training.curve.train_nll
    count = min(SLICES, len(steps))
    ends = [round(part * len(steps) / count) for part in range(count + 1)] if count else []
    return [(fmean(steps[start:end]), fmean(losses[start:end])) for start, end in pairwise(ends)]


def loss_cell(run: MeasuredRun, name: str, read: Losses) -> LinkedCell:
    """Return a number of the mean losses of a training's slices, where there is a curve."""
    training = run.trained(name)
    if training is None:
        return missing_cell(run.absent(name) or f"{name} was made without training")
    points = slices(training)
    if not points:
        return missing_cell(f"the log of {name} has no steps")
    value = read([loss for _, loss in points])
    return LinkedCell(value, "nats/token", format_bits(value), artifacts=(training.artifact,))


def loss_over_seeds(run: MeasuredRun, variant: str, read: Losses) -> LinkedCell:
    """Return a number of the training losses of a variant, over its seeds."""
    return over_seeds(run, variant, lambda name: loss_cell(run, name, read), format_bits)


def first(losses: Sequence[float]) -> float:
    """Return the mean loss of the first slice."""
    return losses[0]


def last(losses: Sequence[float]) -> float:
    """Return the mean loss of the last slice."""
    return losses[-1]


def mean(losses: Sequence[float]) -> float:
    """Return the mean loss of the whole training: the less, the faster it has fallen."""
    return fmean(losses)
