"""Running a recipe: its stages in order of reference, each made once, then the measurements."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flyweight.checkpoints import load_any
from flyweight.config import load, schema
from flyweight.config.schema import SAME_AS, StageConfig
from flyweight.core.files import disk_errors
from flyweight.errors import RequestError
from flyweight.evaluation import tasks as task_scoring
from flyweight.pipeline import lm_eval_checks, stream_checks
from flyweight.pipeline.before_after import BeforeAfter
from flyweight.pipeline.measuring import measure, measure_floors, measure_tuned
from flyweight.pipeline.runner import Runner, StageResult, source_config
from flyweight.planning.budget import shared_time
from flyweight.planning.stages import stage_of
from flyweight.store.artifact import PARTIAL, Artifact
from flyweight.store.budget import BudgetSpent
from flyweight.store.stage import Inputs, PlannedInputs
from flyweight.training.reading import check_alignable

LIMIT_OF = {
    "tokens": "tokens",
    "flops": "flops",
    "seconds": "time",
    "total_flops": "flops",
    "total_seconds": "time",
}


Resolver = Callable[[str, str], Artifact]
"""Returns the artifact of a MODEL outside the recipe, which a field (the second text) names."""


@dataclass
class FinishedRecipe:
    """A finished recipe: its stages and their measurements.

    `stopped` says why the stages that are missing were not made.
    """

    recipe: schema.Recipe
    stages: dict[str, StageResult]
    measured: dict[str, dict[str, StageResult]]
    floors: dict[str, StageResult]
    seconds: float
    stopped: BudgetSpent | None = None
    tuned: dict[str, BeforeAfter] = field(default_factory=dict[str, BeforeAfter])

    def __getitem__(self, name: str) -> Artifact:
        """Return the artifact of a stage."""
        if name not in self.stages:
            raise RequestError(
                f"{self.recipe.name} has no stage {name!r}{load.nearest(name, self.stages)}"
            )
        return self.stages[name].artifact


def run(recipe: schema.Recipe, runner: Runner, resolve: Resolver) -> FinishedRecipe:
    """Make every stage, measure what the report compares, and return the result.

    `resolve` finds MODELs outside the recipe.

    Where a limit of the budget ends a training, what is finished by then is measured. Raises
    BudgetSpent where that is not a single compared model.
    """
    context = runner.context
    asked, recipe = recipe, shared_time(recipe)
    context.meter.shared = context.meter.shared or recipe is not asked
    lm_eval_checks.check_models(recipe, runner.corpus, resolve)
    stream_checks.check_tokens(recipe, runner.corpus)
    stages: dict[str, StageResult] = {}
    stopped = None
    for name in load.order(recipe):
        try:
            _stage(recipe, name, runner, stages, resolve)
        except BudgetSpent as spent:
            stopped = spent
            break
    compared = recipe.report.compare or tuple(
        name for name, result in stages.items() if (result.artifact.path / "model").is_dir()
    )
    finished = [name for name in compared if name in stages]
    if stopped is not None and not finished:
        raise stopped
    measured = {name: measure(runner, recipe, stages[name]) for name in finished}
    floors = measure_floors(runner, measured)
    tuned = measure_tuned(runner, recipe, [stages[name] for name in finished])
    seconds = context.meter.seconds()
    return FinishedRecipe(recipe, stages, measured, floors, seconds, stopped, tuned)


def _stage(
    recipe: schema.Recipe,
    name: str,
    runner: Runner,
    stages: dict[str, StageResult],
    resolve: Resolver,
) -> None:
    """Make one stage of a recipe and put it among `stages`, which hold what it refers to."""
    meter = runner.context.meter
    config = resolve_same_as(recipe.stages[name], stages)
    references = {role: ref for role, ref in config.dependencies().items() if role != SAME_AS}
    artifacts = {
        role: stages[ref].artifact if ref in stages else resolve(ref, f"stages.{name}.{role}")
        for role, ref in references.items()
    }
    if meter.limits.time is not None and meter.limits.over == "stop":
        order = load.order(recipe)
        later = [recipe.stages[other] for other in order[order.index(name) + 1 :]]
        planned = sum(
            stage.train.time or 0.0 for stage in later if isinstance(stage, schema.TrainingStage)
        )
        meter.training_ends = meter.limits.time - meter.after - planned
    stages[name] = runner.make(name, config, artifacts)


def check_inputs(recipe: schema.Recipe, resolve: Resolver) -> None:
    """Raise RequestError for a model outside the recipe that a stage cannot make what it is to."""
    for name, stage in recipe.stages.items():
        for role in stage.own_texts():
            reference = stage.dependencies()[role]
            if reference not in recipe.stages:
                model = resolve(reference, f"stages.{name}.{role}")
                check_alignable(Inputs(name, {role: model}), role)
        source = stage.dependencies().get("input")
        if source is None or source in recipe.stages or not stage.makes_model:
            continue
        inputs = Inputs(name, {"input": resolve(source, f"stages.{name}.input")})
        if isinstance(stage, schema.TrainingStage):
            source_config(stage, inputs)
            continue
        model = load_any.own_config(inputs.model("input"), f"stages.{name}.input")
        stage_of(stage.stage).plan(stage, PlannedInputs({"input": model}))


def check_tasks(recipe: schema.Recipe, data_dir: Path | None) -> None:
    """Raise RequestError, before anything is trained, for a task that cannot be scored.

    Its rows cannot be read, or its metrics need a package that is not installed.
    """
    scores = [stage for stage in recipe.stages.values() if isinstance(stage, schema.Score)]
    for stage in recipe.stages.values():
        if isinstance(stage, schema.Select) and stage.score is not None:
            scores.append(stage.score)
    scores += [task.stage("") for task in recipe.report.scored()]
    for config in scores:
        task_scoring.check(config, data_dir)
    lm_eval_checks.check_tasks(recipe)


def resolve_same_as(config: StageConfig, stages: Mapping[str, StageResult]) -> StageConfig:
    """Turn `same_as` into the limit it stands for, from what the other stage really spent."""
    if not isinstance(config, schema.TrainingStage) or config.train.same_as is None:
        return config
    same_as = config.train.same_as
    limit = LIMIT_OF[same_as.of]
    spent = stages[same_as.stage].artifact.facts[same_as.of]
    train = config.train.model_copy(update={limit: spent if limit == "time" else round(spent)})
    return config.model_copy(update={"train": train})


def link_stages(folder: Path, stages: Mapping[str, StageResult]) -> None:
    """Make `<runs>/<recipe>/<stage>` point to the stage's artifact."""
    with disk_errors(folder):
        for name, result in stages.items():
            fresh = folder / f".{name}{PARTIAL}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(Path("..") / result.artifact.path.name, target_is_directory=True)
            os.replace(fresh, folder / name)
