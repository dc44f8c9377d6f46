"""What is varied alone, by several seeds: the bottleneck, sharing, and what the student learns."""

from __future__ import annotations

from flyweight.config.units import format_bits, format_count
from flyweight.reports.layouts.content import LinkedCell, LinkedRow, LinkedTable, missing_cell
from flyweight.reports.layouts.distilqwen3.roles import VARIANTS
from flyweight.reports.layouts.distilqwen3.seeds import (
    first,
    last,
    loss_over_seeds,
    mean,
    over_seeds,
)
from flyweight.reports.layouts.measured_run import MeasuredRun

COLUMNS = {
    "parameters": "parameters",
    "executed": "executed parameters",
    "flops": "FLOPs of training",
    "first": "loss at first",
    "mean": "mean loss",
    "last": "loss at last",
    "bits_per_byte": "test bits per byte",
}


def experiments(run: MeasuredRun) -> LinkedTable:
    """Return every variant's size, cost, training loss and test score, over its seeds."""
    rows = [LinkedRow(label, name, _cells(run, name)) for name, label in VARIANTS.items()]
    notes = (
        "Means over seeds, and from the least seed to the largest. Loss: cross-entropy in "
        "training, nats/token, of the first twelfth of the steps, of all, and of the last.",
        "Executed: a shared matrix counts at each use. Of one seed all models read the same tokens "
        "in the same order.",
    )
    return LinkedTable("experiments", "One factor at a time", COLUMNS, tuple(rows), notes)


def _cells(run: MeasuredRun, variant: str) -> dict[str, LinkedCell]:
    return {
        "parameters": over_seeds(run, variant, run.parameters, format_count),
        "executed": over_seeds(
            run, variant, lambda name: run.parameters(name, "total"), format_count
        ),
        "flops": over_seeds(run, variant, lambda name: _flops(run, name), format_count),
        "first": loss_over_seeds(run, variant, first),
        "mean": loss_over_seeds(run, variant, mean),
        "last": loss_over_seeds(run, variant, last),
        "bits_per_byte": bits_over_seeds(run, variant),
    }


def bits_over_seeds(run: MeasuredRun, variant: str) -> LinkedCell:
    """Return the bits per byte of a variant on test text, over its seeds."""
    return over_seeds(run, variant, lambda name: run.bits_per_byte(name, "test"), format_bits)


def _flops(run: MeasuredRun, name: str) -> LinkedCell:
    training = run.trained(name)
    if training is None:
        return missing_cell(run.absent(name) or f"{name} was made without training")
    flops = training.cost.flops
    return LinkedCell(flops, "FLOPs", format_count(flops), artifacts=(training.artifact,))
