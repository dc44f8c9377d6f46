"""A recipe's budget before anything runs: who gets which share, and what is already known not to fit."""

from __future__ import annotations

from flyweight.config import schema

RESERVE = 0.15
"""Share of a time budget that is kept for reading the corpus, measuring and reporting."""

LEAST_RESERVE = 20.0


def shared_time(recipe: schema.Recipe) -> schema.Recipe:
    """Return the recipe in which training stages without any limit share what `budget.time` leaves for training.

    The shares follow from the recipe alone, never from a clock, so that running it again finds the same stages. They are part
    of what these stages are: with another `budget.time` they are trained anew.
    """
    budget = recipe.budget.time
    open_ended = [name for name, stage in recipe.stages.items() if _limitless(stage)]
    if budget is None or not open_ended:
        return recipe
    fixed = sum(
        stage.train.time or 0.0 for stage in recipe.stages.values() if isinstance(stage, schema.Pretrain | schema.Distill)
    )
    left = budget - max(LEAST_RESERVE, RESERVE * budget) - fixed
    share = max(1.0, left / len(open_ended))
    stages = dict(recipe.stages)
    for name in open_ended:
        stage = stages[name]
        assert isinstance(stage, schema.Pretrain | schema.Distill)
        stages[name] = stage.model_copy(update={"train": stage.train.model_copy(update={"time": share})})
    return recipe.model_copy(update={"stages": stages})


def _limitless(stage: schema.Strict) -> bool:
    if not isinstance(stage, schema.Pretrain | schema.Distill):
        return False
    train = stage.train
    return not (train.steps or train.tokens or train.flops or train.time or train.same_as)
