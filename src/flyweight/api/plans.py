"""Plan what recipes, studies, texts and models will need, before anything runs.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flyweight.api import targets
from flyweight.api.measurements import Model
from flyweight.api.own_text import choose, is_text, refuse_empty
from flyweight.api.recipes import NO_STAGES
from flyweight.api.session import DEFAULT, Session, shows_what_takes_long
from flyweight.config import schema, study as study_config
from flyweight.config.units import format_size
from flyweight.core.machine import free_bytes
from flyweight.errors import RequestError
from flyweight.planning.grid import GridPlan
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.recipe_plan import Plan
from flyweight.store.artifact import Artifact
from flyweight.training import training_cost

Target = schema.Recipe | study_config.Study | schema.Architecture | Mapping[str, Any] | Model


@shows_what_takes_long
def plan(
    target: Target,
    *overrides: str,
    memory: str | None = None,
    time: str | None = None,
    flops: str | float | None = None,
    parameters: str | int | None = None,
    bytes: str | None = None,
    without: Sequence[str] = (),
    check: bool = False,
    session: Session = DEFAULT,
) -> Plan | GridPlan | ModelPlan:
    """Return what a recipe, study, text, config or model needs; no model is built.

    `target` is a name, a file, the fields of a recipe or study, what `load` returned, a text for
    `train`, or a MODEL. `overrides` are `path=value` words. The limits are those of a recipe's
    budget: `memory="6GB"`, `time="10min"` (the only one of a study), `flops`, and `parameters` and
    `bytes` of the smallest model. A recipe is planned without the stages `without`. `print(plan)`
    shows its table. `plan.totals` has the sums, and `plan.faults` says which limits are passed.
    With `check` two steps of each training are made in a fresh process: `plan.stages[i].measured`
    has their memory. Raises RequestError with every fault of the request, for a `check` of what
    trains nothing, and where memory does not suffice.
    """
    options = {
        "memory": memory,
        "time": time,
        "flops": flops,
        "parameters": parameters,
        "bytes": bytes,
    }
    refuse_empty(options)
    limits = {name: str(value) for name, value in options.items() if value is not None}
    planned = _planned(target, overrides, limits, session, without)
    if not check:
        return planned
    return checked(planned, session)


def _planned(
    target: Target,
    overrides: Sequence[str],
    limits: Mapping[str, str],
    session: Session,
    without: Sequence[str] = (),
) -> Plan | GridPlan | ModelPlan:
    """Return the plan of a target with its words and limits."""
    if isinstance(target, str | Path):
        planned = _target_of(str(target), overrides, limits, without, session)
        return targets.plan(planned, session)
    if isinstance(target, Mapping):
        return targets.plan(targets.planned_fields(target, overrides, limits, without), session)
    if overrides or limits or without:
        what = "an artifact" if isinstance(target, Artifact) else "checked already"
        raise RequestError(
            f"plan: this is {what}; limits, path=value words and without are for names and files"
        )
    return targets.plan(target, session)


def _target_of(
    target: str,
    overrides: Sequence[str],
    limits: Mapping[str, str],
    without: Sequence[str],
    session: Session,
) -> Any:
    """Return what to plan for a name or file; for a text, the recipe that `train` would run."""
    if is_text(target, session):
        if without:
            raise RequestError(NO_STAGES.format(target))
        return choose(target, *overrides, limits=limits, session=session).recipe
    return targets.planned(target, overrides, limits, without)


@shows_what_takes_long
def measure_memory(target: Target, stage: str, *overrides: str, session: Session = DEFAULT) -> int:
    """Return the bytes that two steps of a training stage take in a fresh process.

    They are those over the interpreter with its imports, as `budget.memory` counts them. `target`
    and `overrides` are those of `plan`. No earlier stage is made and no text is read: models have
    random weights of the planned shapes, and the tokens are random. Raises RequestError as `plan`
    does, for an unknown stage, and where the plan needs more memory than is free. Raises
    FlyweightError where the process failed.
    """
    planned = _planned(target, overrides, {}, session)
    measured = checked(planned, session, stage)
    return next(each.measured for each in measured.stages if each.name == stage and each.measured)


def checked(
    planned: Plan | GridPlan | ModelPlan, session: Session, only: str | None = None
) -> Plan:
    """Return a plan with the memory measured of its training stages, or of `only` one of them.

    Raises the errors of `measure_memory`.
    """
    if not isinstance(planned, Plan):
        raise RequestError(
            "--check: it measures the training stages of a recipe or of a text; a study and a "
            "single model have none"
        )
    stages = [stage for stage in planned.stages if only in (None, stage.name)]
    if not stages:
        names = ", ".join(stage.name for stage in planned.stages) or "none"
        what = "it has no training stage that is planned" if only is None else f"no stage {only!r}"
        raise RequestError(f"{planned.name}: {what}; training stages: {names}")
    runtime = session.runtime()
    free = free_bytes(runtime.device)
    if over := [stage for stage in stages if stage.memory.total > free]:
        needs = ", ".join(f"{each.name} {format_size(each.memory.total)}" for each in over)
        raise RequestError(
            f"--check: {format_size(free)} of memory are free, and the plan needs more: {needs}; "
            f"free some, or check on a larger machine"
        )
    measured = dict[str, int]()
    for stage in stages:
        what = f"memory of {stage.name}: two steps in a fresh process"
        session.watch("counting", {"what": what})
        cost = training_cost.check(stage.training, stage.name, runtime, planned.held)
        measured[stage.name] = cost.peak_bytes
    found = tuple(replace(each, measured=measured.get(each.name)) for each in planned.stages)
    return replace(planned, stages=found)
