"""What a recipe needs, stage by stage and row by row, and which limits it breaks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.text import Text

from flyweight.config import schema
from flyweight.config.units import format_count, format_flops, format_size
from flyweight.errors import FlyweightError, RequestError
from flyweight.planning.fitting import Fitting, fitting_words
from flyweight.planning.memory import PlannedMemory
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.rows import TimeRow, listed
from flyweight.planning.shown import Shown, estimated
from flyweight.records.training_memory import format_error, planning_error
from flyweight.tables.engine import Cell, Table
from flyweight.tables.plain import Cells, plain_table
from flyweight.training.planned_training import PlannedTraining

UNPLANNED = (
    "packing",
    "n-gram floors",
    "audits",
    "answers to tasks",
    "other stages without training",
)
"""What runs in the same process and whose memory is noted, but not planned."""


@dataclass(frozen=True)
class StagePlan:
    """The needs of one training stage.

    `seconds` and `steps` are None where the limit comes from another stage's clock. `validating`
    is the part of its seconds that validations take, `scoring` the seconds of evaluating and
    auditing its model once. `training` is what a check measures, and `measured` what it found, in
    bytes.
    """

    name: str
    model: ModelPlan
    steps: int | None
    tokens: int | None
    flops: float | None
    seconds: float | None
    memory: PlannedMemory
    training: PlannedTraining
    validating: float = 0.0
    scoring: float = 0.0
    measured: int | None = None

    @property
    def error(self) -> float | None:
        """How far the planned memory is from what was measured, as a share of that."""
        return planning_error(self.memory.total, self.measured)


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """A recipe's plan.

    `faults` names the limits of the budget that cannot hold, each with what to change. `warnings`
    names limits that probably will not hold: time depends on what else this machine does. `beside`
    has the rows other than training. `fittings` has what makes stages fit that need more memory
    than they may. `smallest` has the parameters and bytes of the smallest model compared, `unread`
    the corpora whose vocabulary is not known yet. `held`: freed memory goes back to the system at
    once, because the budget limits it. `evaluated` has the bytes of evaluating each model.
    """

    name: str
    stages: tuple[StagePlan, ...]
    assumed: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    beside: tuple[TimeRow, ...] = ()
    smallest: Mapping[str, float] = field(default_factory=dict[str, float])
    unread: tuple[schema.Data, ...] = ()
    fittings: Mapping[str, Fitting] = field(default_factory=dict[str, Fitting])
    held: bool = False
    evaluated: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def rows(self) -> tuple[TimeRow, ...]:
        """The rows of time in the order of a run: packing, training, validating, the rest."""
        training = [
            TimeRow(stage.name, max(0.0, (stage.seconds or 0.0) - stage.validating), "training")
            for stage in self.stages
        ]
        validating = sum(stage.validating for stage in self.stages)
        packing = [row for row in self.beside if row.kind == "packing"]
        rest = [row for row in self.beside if row.kind != "packing"]
        return (
            *packing,
            *training,
            *([TimeRow("validating", validating, "validating")] if validating else []),
            *rest,
        )

    @property
    def measuring(self) -> float:
        """The seconds of all measurements."""
        return sum(row.seconds for row in self.beside if row.kind == "measuring")

    @property
    def totals(self) -> dict[str, float]:
        """The numbers that the budget limits; an unknown one counts as 0.

        They are the seconds of all rows, training FLOPs, the memory of the largest training or
        evaluation, and the parameters and bytes of the smallest model.
        """
        held = [*(stage.memory.total for stage in self.stages), *self.evaluated.values()]
        return {
            "time": sum(row.seconds for row in self.rows),
            "flops": sum(stage.flops or 0.0 for stage in self.stages),
            "memory": max(held, default=0),
            **self.smallest,
        }

    def json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        stages = {
            stage.name: {
                **stage.model.json(),
                "steps": stage.steps,
                "tokens": stage.tokens,
                "training_flops": stage.flops,
                "seconds": stage.seconds,
                "validation_seconds": stage.validating,
                "memory": {**stage.memory.parts, "total": stage.memory.total},
                "method": stage.memory.method,
                "changes": self._changes(stage.name),
                **_measured(stage),
            }
            for stage in self.stages
        }
        return {
            "name": self.name,
            "stages": stages,
            "evaluations": dict(self.evaluated),
            "rows": [asdict(row) for row in self.rows],
            "total": self.totals,
            "assumed": self.assumed,
            "faults": self.faults,
            "warnings": self.warnings,
        }

    def _changes(self, stage: str) -> list[dict[str, Any]]:
        """Return what would make a stage fit, as plain data."""
        fitting = self.fittings.get(stage)
        if fitting is None:
            return []
        return [change.json() for change in (*fitting.changes, *fitting.proposed)]

    def words(self, written: Collection[str] | None = None) -> list[str]:
        """Return what makes all stages fit at no cost in quality, as words of the command line.

        `written` are the stages that stand in the recipe, where not all do. Others were made of
        them, such as controls and seeds: the stage that they come from is changed.
        """
        return fitting_words(self._all_fit(), self.fittings if written is None else written)

    def _all_fit(self) -> Mapping[str, Fitting]:
        """Return how each stage fits.

        Raises FlyweightError where a stage does not fit even so: the answer is no, as that of a
        plan with faults, and not that the request is wrong.
        """
        if any(not fitting.fits for fitting in self.fittings.values()):
            raise FlyweightError("\n".join(self.faults))
        return self.fittings

    def verdict(self) -> list[Text | str]:
        """Return the limits that cannot or probably will not hold, then the needs in a sentence."""
        lines: list[Text | str] = []
        if self.faults:
            lines.append(Text(f"{self.name} does not fit its budget.", "bold red"))
        elif self.warnings:
            lines.append(Text(f"{self.name} probably does not fit its budget.", "bold yellow"))
        lines += [Text.assemble(("does not fit", "red"), f" {each}") for each in self.faults]
        lines += [Text.assemble(("probably over", "yellow"), f" {each}") for each in self.warnings]
        return [*lines, self._needs()]

    def _needs(self) -> str:
        """Return what all of it needs, in a sentence."""
        totals = self.totals
        needs = [
            f"about {estimated(totals['time'])}",
            f"{format_flops(totals['flops'])} of training",
            f"{format_size(totals['memory'])} of memory",
        ]
        unknown = any(stage.seconds is None for stage in self.stages)
        rest = "; the time of a stage is not known beforehand" if unknown else ""
        return f"{self.name} needs {', '.join(needs[:-1])} and {needs[-1]}{rest}."

    def table(self) -> Table[Cells]:
        """Return a row for each stage and each kind of other work, and their sums."""
        stages = {stage.name: stage for stage in self.stages}
        totals = self.totals
        rows = [_row(row, stages) for row in self.rows]
        sums = ("", "", "", format_count(totals["flops"]), estimated(totals["time"]), "", "", "")
        return plain_table(
            (
                "stage",
                "parameters",
                "steps",
                "tokens",
                "FLOPs",
                "time",
                "memory",
                "measured",
                "error",
            ),
            [*rows, ("sum", sums)],
            about={
                "steps": "updates of the weights",
                "tokens": "tokens read in training",
                "FLOPs": "floating-point operations of training",
                "memory": "the most in use at once",
                "measured": "the most in use in two steps, in a fresh process",
                "error": "planned over measured memory, less 1",
            },
            priorities={"steps": 5, "tokens": 4, "parameters": 3, "FLOPs": 2},
        )

    def remarks(self) -> list[str]:
        """Return the parts of the largest stage's memory, and what was assumed."""
        lines = [
            f"{name}: {line}"
            for name, fitting in self.fittings.items()
            for line in fitting.sentences()
        ]
        assumed = [f"assumed: {note}" for note in self._assumed_together()]
        return [*lines, *self._largest(), *self._measured(), *assumed]

    def _assumed_together(self) -> list[str]:
        """Return what was assumed: once, where several stages share it."""
        stages = dict[str, list[str]]()
        for each in self.assumed:
            name, found, note = each.partition(": ")
            named = bool(found) and " " not in name
            stages.setdefault(note if named else each, []).extend([name] if named else [])
        return [f"{listed(names)}: {note}" if names else note for note, names in stages.items()]

    def _measured(self) -> list[str]:
        """Return the memory of the largest evaluation, and what has no plan of its memory."""
        if not self.stages:
            return []
        rest = ", ".join(UNPLANNED)
        if not self.evaluated:
            return [f"not in the memory: {rest}"]
        name = max(self.evaluated, key=lambda each: self.evaluated[each])
        size = format_size(self.evaluated[name])
        return [f"evaluating {name} takes up to {size}, by formulas; not in the memory: {rest}"]

    def _largest(self) -> list[str]:
        """Return the memory of the largest stage in parts, which add up to its total."""
        if not self.stages:
            return []
        largest = max(self.stages, key=lambda stage: stage.memory.total)
        parts = {name: size for name, size in largest.memory.parts.items() if size}
        listed = ", ".join(
            f"{name} {format_size(size)}"
            for name, size in sorted(parts.items(), key=lambda part: -part[1])
        )
        how = "in a dry run" if largest.memory.method == "dry-run" else "by formulas"
        return [
            f"most memory: {largest.name}, {format_size(largest.memory.total)} ({listed}), {how}"
        ]


def _row(row: TimeRow, stages: Mapping[str, StagePlan]) -> tuple[str, Cells]:
    """Return a stage's needs, or only the time of other work such as packing."""
    stage = stages.get(row.name) if row.kind == "training" else None
    if stage is None:
        time = Cell(estimated(row.seconds), tone="quiet")
        return row.name, ("", "", "", "", time, "", "", "")
    return stage.name, (
        format_count(stage.model.parameters.unique),
        "?" if stage.steps is None else f"{stage.steps:,}",
        "?" if stage.tokens is None else format_count(stage.tokens),
        "?" if stage.flops is None else format_count(stage.flops),
        "?" if stage.seconds is None else estimated(row.seconds),
        format_size(stage.memory.total),
        "" if stage.measured is None else format_size(stage.measured),
        "" if stage.error is None else format_error(stage.error),
    )


def _measured(stage: StagePlan) -> dict[str, Any]:
    """Return what a check of a stage measured, as plain data; nothing where there was none."""
    if stage.measured is None:
        return {}
    return {"measured": {"peak_bytes": stage.measured, "error": stage.error}}


def refuse(planned: Plan) -> None:
    """Raise RequestError with every limit that the plan already breaks."""
    if planned.faults:
        raise RequestError(
            "\n".join(
                [
                    f"{planned.name} does not fit its budget:",
                    *(f"  {fault}" for fault in planned.faults),
                ]
            )
        )
