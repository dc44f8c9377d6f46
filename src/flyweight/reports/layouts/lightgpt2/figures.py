"""Figures 1 to 3 of LightGPT2."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flyweight.config.units import format_perplexity
from flyweight.records.run_summary import StageSummary
from flyweight.records.sweep import PerplexityCost, Pruning
from flyweight.reports.layouts.content import LinkedCell, LinkedFigure, LinkedLine, missing_cell
from flyweight.reports.layouts.drawing import bar_charts, line_chart
from flyweight.reports.layouts.lightgpt2.roles import PRUNED, TRAINED
from flyweight.reports.layouts.measured_run import DASH, MeasuredRun, perplexity_cell
from flyweight.reports.models import ranked_models

BARS = {"peak memory": "peak_bytes", "forward latency": "forward_ms"}
"""The two charts of Figure 1."""


def figures(run: MeasuredRun) -> Sequence[LinkedFigure]:
    """Return the paper's figures."""
    return [sizes(run), sparsities(run), trainings(run)]


# --- Figure 1: sizes ---


def sizes(run: MeasuredRun) -> LinkedFigure:
    """Return memory and latency of the recipe's untrained models, one after the other."""
    names = tuple(stage.name for stage in run.of_kind("init"))
    setting = run.setting_of(names, (1,))
    lines = []
    for label, figure in BARS.items():
        cells = [
            (float(place), run.speed(name, setting, figure)) for place, name in enumerate(names)
        ]
        missing = "" if names else "the recipe has no stage init"
        lines.append(LinkedLine(label, "", tuple(cells), missing))
    notes = (f"Shapes with random weights: memory and speed do not depend on them. {setting}.",)
    return LinkedFigure(
        key="figure_1",
        title="Figure 1: memory and latency over sizes",
        x="model",
        y="peak memory; forward latency",
        lines=tuple(lines),
        draw=bar_charts,
        categories=names,
        notes=notes if names else (),
    )


# --- Figure 2: the sweep ---


def sparsities(run: MeasuredRun) -> LinkedFigure:
    """Return perplexity against sparsity: on the tokens that chose, and on the whole split."""
    stage = run.stages.get(PRUNED)
    pruning = None if stage is None else stage.pruning
    title, x = "Figure 2: perplexity against sparsity", "share of zeros"
    if stage is None or pruning is None or not pruning.sweep:
        why = run.absent(PRUNED) or f"{PRUNED} has no sweep of sparsities"
        lines = (LinkedLine("sweep", PRUNED, missing=why),)
        return LinkedFigure("figure_2", title, x, "perplexity", lines, line_chart)
    lines = [_swept(stage, pruning, whole=True)]
    marks = {"bound": _bound(stage, pruning, whole=True)}
    if pruning.sweep[0].chosen_on.targets != pruning.sweep[0].targets:
        chosen_on = f"{pruning.sweep[0].chosen_on.targets:,} tokens"
        lines.insert(0, _swept(stage, pruning, whole=False))
        marks[f"bound, first {chosen_on}"] = _bound(stage, pruning, whole=False)
    return LinkedFigure(
        key="figure_2",
        title=title,
        x=x,
        y="validation perplexity",
        lines=tuple(lines),
        draw=line_chart,
        marks={name: cell for name, cell in marks.items() if cell.number is not None},
        notes=_sweep_notes(pruning),
    )


def _sweep_notes(pruning: Pruning) -> tuple[str, ...]:
    notes = [
        f"Chosen: {pruning.chosen:g}. Bars: 95 % intervals of the paired change from the model "
        f"before. The bound is {pruning.limit:g} above it."
    ]
    if idle := [f"{row.sparsity:g}" for row in pruning.sweep if row.idle_adapters]:
        notes.append(
            f"At {', '.join(idle)} adapters are pruned whole and add nothing any more: "
            f"{pruning.idle_adapters} of {pruning.adapters} in what was chosen."
        )
    if pruning.undecided:
        shares = ", ".join(f"{share:g}" for share in pruning.undecided)
        notes.append(f"The tokens that chose cannot tell on which side of the bound: {shares}.")
    return tuple(notes)


def _swept(stage: StageSummary, pruning: Pruning, whole: bool) -> LinkedLine:
    label = "all of validation" if whole else f"first {pruning.sweep[0].chosen_on.targets:,} tokens"
    points = []
    for row in pruning.sweep:
        nll = row.nll if whole else row.chosen_on.nll
        cost = row.whole_cost if whole else row.perplexity_cost
        before = row.before() if whole else row.before_on_choice()
        points.append((row.sparsity, _perplexity(stage, math.exp(nll), before, cost)))
    place = 0 if whole else 1
    return LinkedLine(label, stage.name, tuple(points), colour=place, shape=place)


def _perplexity(
    stage: StageSummary, value: float, before: float | None, cost: PerplexityCost | None
) -> LinkedCell:
    """Return a perplexity with the interval of its paired change from the one before."""
    if before is None or cost is None:
        return LinkedCell(value, "1/token", format_perplexity(value), artifacts=(stage.id,))
    low, high = before + cost.low, before + cost.high
    return LinkedCell(
        value=value,
        unit="1/token",
        text=format_perplexity(value),
        sub=f"{format_perplexity(low)}{DASH}{format_perplexity(high)}",
        low=low,
        high=high,
        artifacts=(stage.id,),
    )


def _bound(stage: StageSummary, pruning: Pruning, whole: bool) -> LinkedCell:
    """Return the perplexity that the sweep may not exceed."""
    first = pruning.sweep[0]
    before = first.before() if whole else first.before_on_choice()
    if before is None or pruning.limit is None:
        return missing_cell("an earlier version did not measure the whole split")
    bound = before + pruning.limit
    return LinkedCell(bound, "1/token", format_perplexity(bound), artifacts=(stage.id,))


# --- Figure 3: training ---


def trainings(run: MeasuredRun) -> LinkedFigure:
    """Return validation perplexity against the step, of the training methods of Table V."""
    marks = {each.model.name: (each.colour, each.shape) for each in ranked_models([run.summary])}
    lines = [_curve(run, role, label, marks) for role, label in TRAINED.items()]
    return LinkedFigure(
        key="figure_3",
        title="Figure 3: validation perplexity against step",
        x="step of the method's own training",
        y="validation perplexity",
        lines=tuple(lines),
        draw=line_chart,
    )


def _curve(
    run: MeasuredRun, role: str, label: str, marks: dict[str, tuple[int, int]]
) -> LinkedLine:
    model = run.models.get(role)
    if model is None or model.curve is None or not model.curve.validation:
        return LinkedLine(label, role, missing=_without_curve(run, role))
    points = [
        (float(each.step), perplexity_cell(each.nll, model.id)) for each in model.curve.validation
    ]
    colour, shape = marks.get(role, (0, 0))
    return LinkedLine(label, role, tuple(points), colour=colour, shape=shape)


def _without_curve(run: MeasuredRun, role: str) -> str:
    if why := run.absent(role):
        return why
    if role not in run.models:
        return f"{role} is not among the compared models (report.compare)"
    return f"{role} was not validated while it trained"
