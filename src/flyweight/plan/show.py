"""A plan as lines for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from flyweight.config.units import format_count, format_size, format_time
from flyweight.plan.grid import GridPlan
from flyweight.plan.plan import ModelPlan, Plan


def lines(plan: Plan | GridPlan | ModelPlan) -> list[Any]:
    """Return what `flyweight plan` prints: text lines and a table."""
    return _model(plan) if isinstance(plan, ModelPlan) else _grid(plan) if isinstance(plan, GridPlan) else _recipe(plan)


def _model(plan: ModelPlan) -> list[Any]:
    table = Table(box=None, show_header=False)
    table.add_row("parameters", f"{plan.parameters.unique:,}")
    if plan.parameters.total != plan.parameters.unique:
        table.add_row("  as used", f"{plan.parameters.total:,}")
    for part, count in plan.parameters.by_part.items():
        if count:
            table.add_row(f"  {part}", f"{count:,}")
    if plan.depth is not None:
        table.add_row("effective depth", f"{plan.depth} layers")
    table.add_row("forward", f"{format_count(plan.forward_per_token)}FLOPs per token at context {plan.context}")
    table.add_row("training", f"{format_count(plan.training_per_token)}FLOPs per token, optimizer included")
    table.add_row("KV cache", f"{format_size(plan.kv_bytes_per_token)} per token")
    for dtype, size in plan.weights.items():
        table.add_row(f"weights in {dtype}", format_size(size))
    return [table]


def _recipe(plan: Plan) -> list[Any]:
    table = Table(box=None, header_style="dim")
    for head in ("stage", "parameters", "steps", "tokens", "FLOPs", "time", "memory"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for stage in plan.stages:
        table.add_row(
            stage.name,
            format_count(stage.model.parameters.unique),
            "?" if stage.steps is None else f"{stage.steps:,}",
            "?" if stage.tokens is None else format_count(stage.tokens),
            "?" if stage.flops is None else format_count(stage.flops),
            "?" if stage.seconds is None else format_time(stage.seconds),
            format_size(stage.memory.total),
        )
    totals = plan.totals
    table.add_row("all", "", "", "", format_count(totals["flops"]), format_time(totals["time"]), format_size(totals["memory"]))
    notes = [f"assumed: {note}" for note in plan.assumed]
    over = [Text.assemble(("probably over", "yellow"), f" {warning}") for warning in plan.warnings]
    return [table, *notes, *over, *(Text.assemble(("does not fit", "red"), f" {fault}") for fault in plan.faults)]


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
    table.add_row("all", "", "", format_count(totals["flops"]), format_time(totals["time"]), f"{totals['runs']:.0f}")
    notes = [*(f"assumed: {note}" for note in plan.assumed), *plan.left_out, *plan.notes]
    return [table, *notes, *(Text.assemble(("over its limit", "yellow"), f" {warning}") for warning in plan.warnings)]
