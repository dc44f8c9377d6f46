"""Plan a grid of trainings: every cell's plan times its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.text import Text

from flyweight.config import schema
from flyweight.config.units import format_count, format_flops, format_size, format_time
from flyweight.planning.planner import plan
from flyweight.planning.recipe_plan import StagePlan
from flyweight.planning.shown import Shown, estimated
from flyweight.planning.time import Machine
from flyweight.tables.engine import Cell, Table
from flyweight.tables.plain import Cells, plain_table


@dataclass(frozen=True)
class CellPlan:
    """One cell: its name, how many runs it takes, and what each of them needs."""

    name: str
    runs: int
    stage: StagePlan

    @property
    def seconds(self) -> float:
        """The seconds of one run: training, evaluating and checking."""
        return (self.stage.seconds or 0.0) + self.stage.scoring


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
            "time": sum(cell.runs * cell.seconds for cell in self.cells),
            "flops": sum(cell.runs * (cell.stage.flops or 0.0) for cell in self.cells),
            "memory": max((cell.stage.memory.total for cell in self.cells), default=0),
        }

    def verdict(self) -> list[Text | str]:
        """Return the limits that are broken, then what all runs need in a sentence."""
        lines: list[Text | str] = []
        if self.warnings:
            lines.append(Text(f"{self.name} is over its limit.", "bold yellow"))
        lines += [Text(each) for each in self.warnings]
        if not self.cells:
            return lines
        totals = self.totals
        return [
            *lines,
            f"{self.name} needs about {estimated(totals['time'])} for {totals['runs']:,.0f} runs "
            f"of {totals['cells']:,.0f} cells, {format_flops(totals['flops'])} of training and "
            f"{format_size(totals['memory'])} of memory.",
        ]

    def table(self) -> Table[Cells] | None:
        """Return a row for each cell, one for measuring a run, and their sums."""
        if not self.cells:
            return None
        totals = self.totals
        runs = f"{totals['runs']:,.0f}"
        scoring = sum(cell.runs * cell.stage.scoring for cell in self.cells) / totals["runs"]
        measuring = Cell(estimated(scoring), tone="quiet")
        blank = Cell("")
        sums = (blank, blank, format_count(totals["flops"]), estimated(totals["time"]), runs)
        return plain_table(
            ("cell", "parameters", "tokens", "FLOPs", "time", "runs"),
            [
                *(_row(cell) for cell in self.cells),
                ("measuring a run", (blank, blank, blank, measuring, runs)),
                ("sum", sums),
            ],
            about={
                "tokens": "tokens read in one training",
                "FLOPs": "floating-point operations of one training, and of all in the sum",
                "time": "of one training, and of all runs with measuring in the sum",
            },
            priorities={"tokens": 2},
        )

    def remarks(self) -> list[str]:
        """Return what was assumed, what is left out and what to expect."""
        assumed = [f"assumed: {note}" for note in self.assumed]
        return [*assumed, *self.left_out, *self.notes]

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
                "memory": {**cell.stage.memory.parts, "total": cell.stage.memory.total},
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


def _row(cell: CellPlan) -> tuple[str, Cells]:
    stage = cell.stage
    return cell.name, (
        format_count(stage.model.parameters.unique),
        "?" if stage.tokens is None else format_count(stage.tokens),
        "?" if stage.flops is None else format_count(stage.flops),
        "?" if stage.seconds is None else format_time(stage.seconds),
        f"{cell.runs:,}",
    )


def grid(
    name: str,
    cells: Sequence[tuple[str, int, schema.TrainingStage]],
    limit: float,
    machine: Machine,
    vocabularies: Mapping[str, int] | None = None,
    data_dir: Path | None = None,
    left_out: Sequence[str] = (),
    others: Mapping[str, schema.StageConfig] = MappingProxyType({}),
    known: Mapping[str, schema.Architecture] = MappingProxyType({}),
) -> GridPlan:
    """Return the plan of cells given as (name, runs, config).

    `limit` is in seconds, for all runs together. Cells refer to `others`, stages that train
    nothing, and to `known`, models from outside. A cell whose model is not known before it runs is
    not in the plan; a note says so.
    """
    stages = {label: config for label, _, config in cells}
    if not stages:
        return GridPlan(name, (), left_out=tuple(left_out), warnings=("no cell is left to run",))
    recipe = schema.Recipe.model_construct(
        name=name,
        stages={**stages, **others},
        budget=schema.Budget(),
        report=schema.Report(measure=()),
    )
    whole = plan(recipe, machine, vocabularies, data_dir, known=known)
    of_stage = {stage.name: stage for stage in whole.stages}
    planned = tuple(
        CellPlan(label, runs, of_stage[label]) for label, runs, _ in cells if label in of_stage
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
