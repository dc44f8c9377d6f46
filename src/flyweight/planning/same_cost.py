"""The limit of a training that is held to what another stage takes."""

from __future__ import annotations

from collections.abc import Mapping

from flyweight.config import schema
from flyweight.planning.recipe_plan import StagePlan


def _ancestors(recipe: schema.Recipe, name: str) -> set[str]:
    """Return the stages of a recipe that one is made from, directly or not."""
    found = set[str]()
    new = {name}
    while new:
        parents = {ref for each in new for ref in recipe.stages[each].dependencies().values()}
        new = (parents & recipe.stages.keys()) - found
        found |= new
    return found


def with_same_cost(
    train: schema.Train,
    found: Mapping[str, StagePlan],
    told: Mapping[str, Mapping[str, float]],
    recipe: schema.Recipe,
) -> schema.Train:
    """Return the limit that `same_as` probably means, from the other stage's plan.

    `told` are the FLOPs and seconds of records of teachers, which `total_*` includes.
    """
    other = found.get(train.same_as.stage) if train.same_as else None
    if other is None or train.same_as is None:
        return train
    what = train.same_as.of
    value: float | None = getattr(other, what.removeprefix("total_"))
    if value is not None and what.startswith("total_"):
        before, quantity = _ancestors(recipe, other.name), what.removeprefix("total_")
        value += sum(getattr(found[ref], quantity) or 0 for ref in before & found.keys())
        value += sum(told[ref][quantity] for ref in before & told.keys())
    if value is None:
        return train
    key = {"tokens": "tokens", "flops": "flops", "seconds": "time"}[what.removeprefix("total_")]
    return train.model_copy(update={key: value if key == "time" else round(value)})
