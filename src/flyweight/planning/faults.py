"""The limits of a budget that a plan breaks already, and what would keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flyweight.config import schema
from flyweight.config.units import count_word, format_count, format_size, format_time, size_word
from flyweight.planning import memory
from flyweight.planning.fitting import Fitting
from flyweight.planning.recipe_plan import StagePlan
from flyweight.spec import flops as cost


def smallest_of(models: Sequence[schema.Architecture]) -> dict[str, float]:
    """Return the parameters and the bytes of the smallest of the models."""
    if not models:
        return {}
    return {
        "parameters": min(cost.parameters(model).unique for model in models),
        "bytes": min(cost.weight_bytes(model) for model in models),
    }


def budget_faults(
    recipe: schema.Recipe,
    stages: tuple[StagePlan, ...],
    smallest: Mapping[str, float],
    fittings: Mapping[str, Fitting],
    evaluated: Mapping[str, int],
) -> list[str]:
    """Return every limit of the budget that the plan already breaks."""
    limits, faults = recipe.budget, []
    if stages:
        largest = max(stages, key=lambda stage: stage.memory.total)
        if limits.memory is not None and largest.memory.total > limits.memory:
            faults.append(_memory_fault(largest, limits.memory, fittings.get(largest.name)))
    faults += _evaluation_faults(limits.memory, evaluated, fittings)
    flops = sum(stage.flops or 0.0 for stage in stages)
    if limits.flops is not None and flops > limits.flops:
        faults.append(
            f"budget.flops: {format_count(limits.flops)}, but training takes "
            f"{format_count(flops)}: lower train.steps, or give it budget.flops={count_word(flops)}"
        )
    if limits.parameters is not None and smallest.get("parameters", 0) > limits.parameters:
        least = format_count(smallest["parameters"])
        faults.append(
            f"budget.parameters: {format_count(limits.parameters)}, but the smallest model has "
            f"{least}: lower model.dim or model.layers, or give it budget.parameters="
            f"{count_word(smallest['parameters'])}"
        )
    if limits.bytes is not None and smallest.get("bytes", 0) > limits.bytes:
        least = format_size(smallest["bytes"])
        faults.append(
            f"budget.bytes: {format_size(limits.bytes)}, but the smallest model takes {least}: add "
            "a quantize stage to what is compared, or lower model.dim or the tokenizer's vocab, or "
            f"give it budget.bytes={size_word(smallest['bytes'])}"
        )
    return faults


def _evaluation_faults(
    limit: float | None, evaluated: Mapping[str, int], fittings: Mapping[str, Fitting]
) -> Iterator[str]:
    """Yield that the largest evaluation is over the limit of memory, or of what trainings fit."""
    if limit is None or not evaluated:
        return
    name = max(evaluated, key=lambda each: evaluated[each])
    needed = evaluated[name]
    if needed > max(limit, *(fitting.memory.total for fitting in fittings.values()), 0):
        yield (
            f"budget.memory: {format_size(limit)}, but evaluating {name} takes about "
            f"{format_size(needed)}: a smaller data.context or model, fewer windows (batch of an "
            f"evaluate stage), or budget.memory={size_word(needed)}"
        )


def _memory_fault(stage: StagePlan, limit: float, fitting: Fitting | None) -> str:
    """Return by how much a stage is over the limit of memory, and what would make it fit."""
    over = (
        f"budget.memory: {format_size(limit)}, but {stage.name} needs about "
        f"{format_size(stage.memory.total)}, {format_size(stage.memory.total - limit)} more"
    )
    beneath = memory.beneath_all(limit, stage.memory.libraries)
    advice = "raise train.accumulate or lower train.batch"
    if fitting is not None:
        advice = fitting.advice(stage.name)
    return f"{over}: {beneath}; {advice}" if beneath else f"{over}: {advice}"


def warnings(recipe: schema.Recipe, seconds: float) -> list[str]:
    """Return that the whole run will probably take longer than the budget has, in `seconds`."""
    limit = recipe.budget.time
    if limit is None or seconds <= limit:
        return []
    return [
        f"budget.time: {format_time(limit)}, but it will take about {format_time(seconds)} on this "
        "machine as busy as it is: lower train.steps, or give it more time"
    ]
