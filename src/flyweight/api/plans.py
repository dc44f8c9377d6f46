"""Plan what recipes, studies, texts and models will need, before anything runs.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flyweight.api import runs
from flyweight.api.measurements import Model
from flyweight.api.own_text import choose, is_text
from flyweight.api.session import DEFAULT, Session, reads_models
from flyweight.config import schema, study as study_config
from flyweight.errors import RequestError
from flyweight.planning.grid import GridPlan
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.recipe_plan import Plan
from flyweight.store.artifact import Artifact

Target = schema.Recipe | study_config.Study | schema.Architecture | Mapping[str, Any] | Model


@reads_models
def plan(
    target: Target,
    *overrides: str,
    memory: str | None = None,
    time: str | None = None,
    flops: str | float | None = None,
    parameters: str | int | None = None,
    bytes: str | None = None,
    session: Session = DEFAULT,
) -> Plan | GridPlan | ModelPlan:
    """Return what a recipe, study, text, config or model needs; no model is built.

    `target` is a name, a file, the fields of a recipe or study, what `load` returned, a text for
    `train`, or a MODEL. `overrides` are `path=value` words. The limits are those of a recipe's
    budget: `memory="6GB"`, `time="10min"` (the only one of a study), `flops`, and `parameters` and
    `bytes` of the smallest model. `print(plan)` shows its table. `plan.totals` has the sums, and
    `plan.faults` says which limits are passed. Raises RequestError with every fault of the request.
    """
    options = {
        "memory": memory,
        "time": time,
        "flops": flops,
        "parameters": parameters,
        "bytes": bytes,
    }
    limits = {name: str(value) for name, value in options.items() if value is not None}
    if isinstance(target, str | Path):
        return runs.plan(_target_of(str(target), overrides, limits, session), session)
    if isinstance(target, Mapping):
        return runs.plan(runs.planned_fields(target, overrides, limits), session)
    if overrides or limits:
        what = "an artifact" if isinstance(target, Artifact) else "checked already"
        raise RequestError(
            f"plan: this is {what}; limits and path=value words are for names and files"
        )
    return runs.plan(target, session)


def _target_of(
    target: str, overrides: Sequence[str], limits: Mapping[str, str], session: Session
) -> Any:
    """Return what to plan for a name or file; for a text, the recipe that `train` would run."""
    if is_text(target, session):
        return choose(target, *overrides, limits=limits, session=session).recipe
    return runs.planned(target, overrides, limits)
