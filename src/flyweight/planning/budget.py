"""Share a recipe's time budget between its stages, before anything runs."""

from __future__ import annotations

import math

from flyweight.config import schema

RESERVE = 0.15
"""Share of a time budget that is kept for packing, measuring and reporting.

It is used where the size of the text is not known.
"""

LEAST_RESERVE = 20.0

LEAST_TRAINING = 0.25
"""Share of a time budget that training has at least, however long packing and measuring take."""


def shared_time(recipe: schema.Recipe, reserve: float | None = None) -> schema.Recipe:
    """Return the recipe in which training stages without a limit share the rest of `budget.time`.

    `reserve` are the seconds of packing and measuring, by default a fixed share. Shares do not
    depend on a clock: running the recipe again finds the same stages. With another `budget.time`
    they are trained anew.
    """
    budget = recipe.budget.time
    open_ended = [name for name, stage in recipe.stages.items() if limitless(stage)]
    if budget is None or not open_ended:
        return recipe
    fixed = sum(
        stage.train.time or 0.0
        for stage in recipe.stages.values()
        if isinstance(stage, schema.TrainingStage)
    )
    if reserve is None:
        share = max(1.0, (budget - max(LEAST_RESERVE, RESERVE * budget) - fixed) / len(open_ended))
    else:
        share = rounded_down(
            max(budget - reserve - fixed, LEAST_TRAINING * budget) / len(open_ended)
        )
    stages = dict(recipe.stages)
    for name in open_ended:
        stage = stages[name]
        assert isinstance(stage, schema.TrainingStage)
        stages[name] = stage.model_copy(
            update={"train": stage.train.model_copy(update={"time": share})}
        )
    return recipe.model_copy(update={"stages": stages})


def rounded_down(seconds: float) -> float:
    """Return seconds with two significant digits, rounded down.

    Small changes of an estimate then leave a share as it is.
    """
    if seconds <= 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return max(1.0, round(math.floor(seconds / unit + 1e-9) * unit, 6))


def limitless(stage: schema.Strict) -> bool:
    """Return whether a stage trains and names no limit of its own."""
    if not isinstance(stage, schema.TrainingStage):
        return False
    train = stage.train
    return not (train.counts_steps or train.time or train.same_as)
