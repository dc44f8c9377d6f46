"""Run recipes.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flyweight.api import model_references, tracking
from flyweight.api.forgetting import forget
from flyweight.api.recipes import load, shipped
from flyweight.api.results import Run as Run
from flyweight.api.session import (
    DEFAULT,
    Session,
    shows_progress,
    uses_runs_root,
)
from flyweight.api.targets import AnyStudy, known_config, train_tokens
from flyweight.config import (
    schema,
)
from flyweight.core import accelerator, allocator
from flyweight.core.files import digest
from flyweight.core.machine import describe
from flyweight.errors import RequestError
from flyweight.pipeline import recipe as recipes, stream_checks
from flyweight.pipeline.runner import Runner
from flyweight.planning import dry_run, planner as plans
from flyweight.planning.recipe_plan import Plan, refuse
from flyweight.planning.time import Machine
from flyweight.planning.vocabulary import vocabulary_key
from flyweight.records import run_summary
from flyweight.records.tuning import Tuning
from flyweight.reports import comparisons, gather, tuning
from flyweight.reports.cards import card
from flyweight.reports.pages import run as page
from flyweight.store.artifact import Artifact
from flyweight.store.budget import BudgetSpent
from flyweight.store.run_registry import RunRegistry
from flyweight.store.stage import Context
from flyweight.studies import study_files


@shows_progress
def run(
    recipe: schema.Recipe | str | Path | Mapping[str, object],
    *overrides: str,
    without: Sequence[str] = (),
    fresh: bool = False,
    session: Session = DEFAULT,
) -> Run:
    """Run a recipe: make each stage once, measure what it compares, write its report; return it.

    `recipe`, `overrides` and `without` are those of `load`; a checked recipe is run as it is.
    `fresh` makes a finished run of its name anew, except the packed text.

    Raises RequestError before any work for a request that is wrong or cannot fit its budget. Raises
    BudgetSpent where a limit ended a training: the finished stages are measured, named and reported
    first. Raises FlyweightError where the work fails: finished stages are kept.
    """
    checked = _recipe(recipe, overrides, without, session)
    if fresh:
        forget(session.store, checked.name, session)
    return run_checked(checked, session)


def _hold_memory(budget: schema.Budget, device: str) -> None:
    """Prepare the process for a limit of memory: what is free is given back, or no more is given.

    A GPU refuses what is over the limit, where that stops a run at all.
    """
    if budget.memory is None:
        return
    if device == "cpu":
        allocator.give_back_at_once()
    elif budget.over == "stop":
        accelerator.hold(device, budget.memory)


@uses_runs_root
def run_checked(
    asked: schema.Recipe,
    session: Session,
    began: float | None = None,
    request: str | None = None,
) -> Run:
    """Run a checked recipe; `began` is when its budget's clock started, by `time.monotonic`.

    `request` is the digest of what the recipe answers, where that is not the recipe itself. Raises
    the errors of `run`.
    """
    context = session.context(asked.budget, asked.seed)
    meter = context.meter
    if began is not None:
        meter.started = began

    def resolve(reference: str, where: str) -> Artifact:
        return model_references.find(reference, context.store, where, context.watch)

    tracking.check_installed(asked.trackers)
    _hold_memory(asked.budget, context.runtime.device)
    recipes.check_inputs(asked, resolve)
    recipes.check_tasks(asked, context.data_dir)
    stream_checks.check_shards(asked, context.data_dir)
    machine = Machine.of(context.store, context.runtime, context.watch)
    checked, meter.after = plans.time_shared(asked, machine, context.data_dir)
    meter.shared = checked is not asked
    known = _models_outside(asked, resolve)
    planned = plans.plan(checked, machine, {}, context.data_dir, known=known)
    work = request or request_of(asked)
    with registry_entry(asked.name, work, context) as unfinished:
        runner = Runner(replace(context, note=unfinished.note))
        if planned.unread:  # read the texts first: limits are checked with their real vocabularies
            packed = {vocabulary_key(data): runner.corpus(data) for data in planned.unread}
            real = {key: corpus.facts["vocab_size"] for key, corpus in packed.items()}
            tokens = {key: train_tokens(corpus) for key, corpus in packed.items()}
            planned = plans.plan(checked, machine, real, context.data_dir, tokens, known)
        refuse(planned)
        unfinished.warn_of_replacing()
        context.watch("planned", {"name": checked.name, "plan": planned})
        with tracking.tracked(asked, context, unfinished.work) as told:
            runner.context = replace(runner.context, watch=told)
            finished = recipes.run(checked, runner, resolve)
            planned = dry_run.counted(planned, context.runtime.device)
            result = _summarise(finished, context, planned, unfinished.work)
            told.results(result)
        with context.store.recipe_folder(checked.name, context.watch) as place:
            unfinished.replace(place.path)
            recipes.link_stages(place.path, finished.stages)
            result.write(place.path)
            card.write_beside(place.path, checked.name, context.store)
            report = place.named(page.write(place.path))
            if finished.stopped is None:
                unfinished.done(place.path)
    if finished.stopped is not None:
        names = ", ".join(f"{checked.name}:{name}" for name in finished.stages)
        raise BudgetSpent(
            f"{finished.stopped}. Finished and measured: {names}; report: {report}"
        ) from finished.stopped
    if all(stage.reused for stage in result.stages):
        context.watch("all kept", {"name": checked.name})
    return Run(finished, result, report, report.parent)


def _models_outside(
    asked: schema.Recipe, resolve: recipes.Resolver
) -> dict[str, schema.Architecture]:
    """Return the models outside a recipe that its trainings start from or learn from.

    They go by their references. What a plan does not know, such as a foreign model, is left out.
    """
    known = dict[str, schema.Architecture]()
    for name, stage in asked.stages.items():
        if not isinstance(stage, schema.TrainingStage):
            continue
        for role in ("input", "teacher"):
            reference = stage.dependencies().get(role)
            if reference is None or reference in asked.stages or reference in known:
                continue
            with suppress(RequestError):
                known[reference] = known_config(resolve(reference, f"stages.{name}.{role}"))
    return known


def _recipe(
    recipe: schema.Recipe | str | Path | Mapping[str, object],
    overrides: Sequence[str],
    without: Sequence[str],
    session: Session,
) -> schema.Recipe:
    """Return the checked recipe.

    Raises RequestError for a recipe that is wrong or unknown. For the name of a run, the message
    has its command.
    """
    if isinstance(recipe, schema.Recipe):
        if overrides or without:
            raise RequestError(
                "this recipe is checked already: give path=value words and without= to load"
            )
        return recipe
    is_recipe = (
        not isinstance(recipe, str)
        or recipe in (*shipped(), *study_files.shipped())
        or Path(recipe).exists()
    )
    run = None if is_recipe else model_references.description_of_run(str(recipe), session.store)
    if run is not None:
        raise RequestError(f"{recipe!r} is not a recipe, but a run: {run}")
    return load(recipe, *overrides, without=without)


def registry_entry(name: str, request: str, context: Context) -> RunRegistry:
    """Return the registry entry that keeps a run's artifacts until its results are written."""
    return RunRegistry(
        store=context.store,
        name=name,
        work=request,
        command=context.command,
        watch=context.watch,
    )


def request_of(asked: schema.Recipe | AnyStudy) -> str:
    """Return a digest of a request: it differs between requests of the same name.

    It leaves out what only watches a run.
    """
    return digest(asked.model_dump(mode="json", exclude={"trackers"}))[:8]


def _summarise(
    finished: recipes.FinishedRecipe, context: Context, planned: Plan, request: str
) -> run_summary.Summary:
    recipe = finished.recipe
    chosen = {
        name: stage.artifact.facts["chosen"]
        for name, stage in finished.stages.items()
        if stage.artifact.stage == "select"
    }
    sources = [
        gather.ModelArtifacts(
            name,
            finished.stages[name].config,
            finished.stages[name].artifact,
            {kind: measured.artifact for kind, measured in kinds.items()},
            chosen,
        )
        for name, kinds in finished.measured.items()
    ]
    compared = gather.models(recipe, sources)
    needs = {stage.name: stage.memory for stage in planned.stages}
    made = [
        gather.MadeStage(name, stage.config, stage.artifact, stage.reused)
        for name, stage in finished.stages.items()
    ]
    apart = {each.name for each in made} - {model.name for model in compared}
    told = apart if recipe.report.layout is not None else set[str]()
    corpora = []
    for name, result in finished.floors.items():
        assert isinstance(result.config, schema.Floors)
        packed = Artifact.open(context.store.root / name)
        corpora.append(gather.corpus(packed, result.config.data.context, result.artifact))
    return run_summary.Summary(
        name=recipe.name,
        seed=recipe.seed,
        created=gather.now(),
        command=context.command,
        request=request,
        seconds=context.meter.seconds(),
        environment=run_summary.Environment(
            **describe(context.runtime.device, context.runtime.threads)
        ),
        budget=gather.budget(recipe, context.meter, compared, planned.totals),
        corpus=tuple(corpora),
        models=compared,
        comparisons=comparisons.on_test(sources),
        task_comparisons=comparisons.of_tasks(sources),
        tuning=tuple(_tuning(finished, name) for name in finished.tuned),
        validation=comparisons.on_validation(made),
        stages=tuple(
            gather.stage(each, needs.get(each.name), planned.held, in_full=each.name in told)
            for each in made
        ),
        unmade=tuple(name for name in recipe.stages if name not in finished.stages),
        layout=recipe.report.layout,
    )


def _tuning(finished: recipes.FinishedRecipe, name: str) -> Tuning:
    """Return the record of a fine-tuning before and after."""
    stage, measured = finished.stages[name], finished.tuned[name]
    assert isinstance(stage.config, schema.Finetune)
    return tuning.tuning(
        name,
        stage.config,
        measured.base,
        stage.artifact,
        learned=measured.learned,
        forgotten=measured.forgotten,
        samples=measured.samples,
        lm_eval=measured.lm_eval,
        notes=measured.notes,
    )


def plain_name(name: str) -> str:
    """Return a name that can be the folder of a run."""
    letters = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-"
        for letter in name
    )
    return letters.strip("-.")[:40] or "text"
