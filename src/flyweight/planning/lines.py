"""A plan as lines for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from flyweight.config.units import format_count, format_size, format_time
from flyweight.planning.grid import MEASURE_SECONDS, GridPlan
from flyweight.planning.recipe_plan import ModelPlan, Plan


def lines(plan: Plan | GridPlan | ModelPlan) -> list[Any]:
    """Return what `flyweight plan` prints: text lines and a table."""
    if isinstance(plan, ModelPlan):
        return _model(plan)
    if isinstance(plan, GridPlan):
        return _grid(plan)
    return _recipe(plan)


def _model(plan: ModelPlan) -> list[Any]:
    table = Table(box=None, show_header=False)
    table.add_row("parameters", f"{plan.parameters.unique:,}")
    if plan.parameters.total != plan.parameters.unique:
        table.add_row("  as used", f"{plan.parameters.total:,}")
    for part, count in plan.parameters.by_part.items():
        if count:
            table.add_row(f"  {part}", f"{count:,}")
    if plan.depth is not None:
        table.add_row("effective depth", f"{plan.depth} layer{'' if plan.depth == 1 else 's'}")
    table.add_row(
        "forward",
        f"{format_count(plan.forward_per_token)}FLOPs per token at context {plan.context}",
    )
    table.add_row(
        "training", f"{format_count(plan.training_per_token)}FLOPs per token, optimizer included"
    )
    table.add_row(
        "KV cache",
        f"{format_size(plan.kv_bytes_per_token)} per token, {format_size(plan.kv_bytes)} "
        f"for {plan.context} tokens",
    )
    for dtype, size in plan.weights.items():
        table.add_row(f"weights in {dtype}", format_size(size))
    return [table]


def _recipe(plan: Plan) -> list[Any]:
    table = Table(box=None, header_style="dim")
    for head in ("stage", "parameters", "steps", "tokens", "FLOPs", "time", "memory"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    stages = {stage.name: stage for stage in plan.stages}
    for row in plan.rows:
        stage = stages.get(row.name) if row.kind == "training" else None
        if stage is None:
            table.add_row(row.name, "", "", "", "", _seconds(row.seconds), "", style="dim")
            continue
        table.add_row(
            stage.name,
            format_count(stage.model.parameters.unique),
            "?" if stage.steps is None else f"{stage.steps:,}",
            "?" if stage.tokens is None else format_count(stage.tokens),
            "?" if stage.flops is None else format_count(stage.flops),
            "?" if stage.seconds is None else _seconds(row.seconds),
            format_size(stage.memory.total),
        )
    totals = plan.totals
    table.add_row("sum", "", "", "", format_count(totals["flops"]), _seconds(totals["time"]), "")
    notes = [*_largest(plan), *(f"assumed: {note}" for note in plan.assumed)]
    over = [Text.assemble(("probably over", "yellow"), f" {warning}") for warning in plan.warnings]
    return [
        table,
        *notes,
        *over,
        *(Text.assemble(("does not fit", "red"), f" {fault}") for fault in plan.faults),
    ]


def _largest(plan: Plan) -> list[str]:
    """Return the memory of the largest stage in parts, which add up to its total."""
    if not plan.stages:
        return []
    largest = max(plan.stages, key=lambda stage: stage.memory.total)
    parts = {name: size for name, size in vars(largest.memory).items() if size}
    listed = ", ".join(
        f"{name} {format_size(size)}"
        for name, size in sorted(parts.items(), key=lambda part: -part[1])
    )
    return [f"most memory: {largest.name}, {format_size(largest.memory.total)} ({listed})"]


def _seconds(seconds: float) -> str:
    """Return an estimated time in words: whole seconds from ten on."""
    return format_time(float(round(seconds)) if seconds >= 10 else round(seconds, 1))


def _grid(plan: GridPlan) -> list[Any]:
    table = Table(box=None, header_style="dim")
    for head in ("cell", "parameters", "tokens", "FLOPs of a run", "time of a run", "runs"):
        table.add_column(head, justify="left" if head == "cell" else "right")
    for cell in plan.cells:
        stage = cell.stage
        table.add_row(
            cell.name,
            format_count(stage.model.parameters.unique),
            "?" if stage.tokens is None else format_count(stage.tokens),
            "?" if stage.flops is None else format_count(stage.flops),
            "?" if stage.seconds is None else format_time(stage.seconds),
            str(cell.runs),
        )
    totals = plan.totals
    runs = f"{totals['runs']:.0f}"
    table.add_row("measuring a run", "", "", "", _seconds(MEASURE_SECONDS), runs, style="dim")
    table.add_row("sum", "", "", format_count(totals["flops"]), _seconds(totals["time"]), runs)
    notes = [*(f"assumed: {note}" for note in plan.assumed), *plan.left_out, *plan.notes]
    return [
        table,
        *notes,
        *(Text.assemble(("over its limit", "yellow"), f" {warning}") for warning in plan.warnings),
    ]
