"""Plan a grid of trainings: every cell's plan times its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flyweight.config import schema
from flyweight.config.units import format_time
from flyweight.core.runtime import Runtime
from flyweight.planning.recipe_plan import StagePlan, plan
from flyweight.planning.shown import Shown

MEASURE_SECONDS = 2.0
"""Seconds of scoring and checking one small run, without a bench in a process of its own."""


@dataclass(frozen=True)
class CellPlan:
    """One cell: its name, how many runs it takes, and what each of them needs."""

    name: str
    runs: int
    stage: StagePlan


@dataclass(frozen=True, repr=False)
class GridPlan(Shown):
    """A grid's plan.

    `left_out` names the texts that are missing, `warnings` the limits that are broken; `notes` say
    what to expect.
    """

    name: str
    cells: tuple[CellPlan, ...]
    assumed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, float]:
        """Cells, runs, seconds with measuring, training FLOPs, and the largest run's memory."""
        runs = sum(cell.runs for cell in self.cells)
        return {
            "cells": len(self.cells),
            "runs": runs,
            "time": sum(
                cell.runs * ((cell.stage.seconds or 0.0) + MEASURE_SECONDS) for cell in self.cells
            ),
            "flops": sum(cell.runs * (cell.stage.flops or 0.0) for cell in self.cells),
            "memory": max((cell.stage.memory.total for cell in self.cells), default=0),
        }

    def json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        cells = {
            cell.name: {
                **cell.stage.model.json(),
                "runs": cell.runs,
                "steps": cell.stage.steps,
                "tokens": cell.stage.tokens,
                "training_flops": cell.stage.flops,
                "seconds": cell.stage.seconds,
                "memory": {**asdict(cell.stage.memory), "total": cell.stage.memory.total},
            }
            for cell in self.cells
        }
        return {
            "name": self.name,
            "cells": cells,
            "total": self.totals,
            "assumed": self.assumed,
            "left_out": self.left_out,
            "warnings": self.warnings,
            "notes": self.notes,
        }


def grid(
    name: str,
    cells: Sequence[tuple[str, int, schema.Pretrain]],
    limit: float,
    runtime: Runtime,
    vocabularies: Mapping[str, int] | None = None,
    data_dir: Path | None = None,
    left_out: Sequence[str] = (),
) -> GridPlan:
    """Return the plan of cells given as (name, runs, config).

    `limit` is in seconds, for all runs together.
    """
    stages = {label: config for label, _, config in cells}
    if not stages:
        return GridPlan(name, (), left_out=tuple(left_out), warnings=("no cell is left to run",))
    recipe = schema.Recipe.model_construct(
        name=name, stages=stages, budget=schema.Budget(), report=schema.Report(measure=())
    )
    whole = plan(recipe, runtime, vocabularies, data_dir)
    planned = tuple(
        CellPlan(label, runs, stage)
        for (label, runs, _), stage in zip(cells, whole.stages, strict=True)
    )
    result = GridPlan(
        name,
        planned,
        tuple(dict.fromkeys(note.rpartition(": ")[2] for note in whole.assumed)),
        tuple(left_out),
    )
    seconds = result.totals["time"]
    if seconds <= limit:
        return result
    warning = (
        f"limit.time: {format_time(limit)}, but all of it will take about {format_time(seconds)} "
        "on this machine as busy as it is: smaller budgets, fewer cells, or a larger limit.time"
    )
    return GridPlan(name, planned, result.assumed, result.left_out, (warning,))
