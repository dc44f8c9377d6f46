"""Read, plan and run recipes and studies.

Part of `flyweight.api`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flyweight.api import model_references, tracking
from flyweight.api.forgetting import forget
from flyweight.api.measurements import Model
from flyweight.api.results import Run as Run
from flyweight.api.session import (
    DEFAULT,
    Session,
    shows_progress,
    shows_what_takes_long,
    uses_runs_root,
)
from flyweight.config import (
    catalogue,
    load as config_load,
    schema,
    study as study_config,
    tuning_study as tuning_study_config,
)
from flyweight.config.tuning_study import TuningStudy, is_tuning_study
from flyweight.core import accelerator, allocator
from flyweight.core.files import digest
from flyweight.core.machine import describe
from flyweight.data.corpus import Meta
from flyweight.errors import FlyweightError, RequestError
from flyweight.pipeline import recipe as recipes, stream_checks
from flyweight.pipeline.runner import Runner
from flyweight.planning import dry_run, planner as plans
from flyweight.planning.grid import GridPlan
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.recipe_plan import Plan, refuse
from flyweight.planning.time import Machine
from flyweight.planning.vocabulary import vocabulary_key
from flyweight.records import run_summary
from flyweight.records.tuning import Tuning
from flyweight.reports import gather, tuning
from flyweight.reports.cards import card
from flyweight.reports.pages import run as page
from flyweight.store.artifact import Artifact, Store
from flyweight.store.budget import BudgetSpent
from flyweight.store.run_registry import RunRegistry
from flyweight.store.stage import Context
from flyweight.studies import cells as studies, tuning_plan

AnyStudy = study_config.Study | TuningStudy
"""A checked study: of models trained from nothing, or of fine-tuning."""


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("flyweight") / "assets" / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load(
    recipe: str | Path | Mapping[str, object], *overrides: str, without: Sequence[str] = ()
) -> schema.Recipe:
    """Return a checked recipe, with `path=value` words applied and the stages `without` left out.

    `recipe` is a shipped name, a YAML file, or a mapping with a recipe's fields. Raises
    RequestError with every fault of the recipe, and for a study.
    """
    if isinstance(recipe, Mapping):
        name, raw = str(recipe.get("name", "the recipe")), copy.deepcopy(dict(recipe))
    else:
        name, raw = str(recipe), _read(recipe)
    if "models" in raw and "stages" not in raw:
        raise RequestError(f"{name} is a study, not a recipe: flyweight study {name}")
    return config_load.recipe(config_load.override(raw, overrides), name, without)


def with_words(
    recipe: str | Path, words: Sequence[str], without: Sequence[str] = ()
) -> Mapping[str, object]:
    """Return the fields of a shipped recipe or of a file with `path=value` words applied.

    The stages `without` are left out. For a model of the catalogue, the recipe is the one that
    trains it. Raises RequestError where there is no such recipe, or a word names nothing in it.
    """
    raw = config_load.override(_read(_recipe_that_trains(str(recipe)) or recipe), words)
    return config_load.without_stages(raw, without) if without else raw


def _read(recipe: str | Path) -> dict[str, Any]:
    """Return the raw recipe or study of a name or file; raise RequestError where it is missing."""
    if not isinstance(recipe, str | Path):
        raise RequestError(f"a recipe is a name, a YAML file or a mapping, not {recipe!r}")
    name = str(recipe)
    if name in shipped():
        source = (resources.files("flyweight") / "assets" / "recipes" / f"{name}.yaml").read_text(
            encoding="utf-8"
        )
        return config_load.parse_yaml(source, name)
    if Path(recipe).exists() or Path(recipe).suffix in (".yaml", ".yml"):
        return config_load.read_yaml(Path(recipe))
    if name in studies.shipped():
        raise RequestError(f"{name} is a study, not a recipe: flyweight study {name}")
    near = config_load.nearest(name, shipped())
    raise RequestError(f"no recipe is called {name!r}{near}; or name a YAML file")


@shows_what_takes_long
def plan(
    target: schema.Recipe | AnyStudy | schema.Architecture | Model,
    session: Session = DEFAULT,
) -> Plan | GridPlan | ModelPlan:
    """Return what a recipe, study, config or model needs; nothing is allocated."""
    if session.device is not None or session.threads is not None:
        session.runtime()  # a device that this machine lacks is refused for a single model too
    if isinstance(target, study_config.Study):
        return studies.plan(
            target, machine_of(session), vocabularies(session.store), session.data_folder
        )
    if isinstance(target, TuningStudy):
        return tuning_study_plan(target, session)
    if isinstance(target, schema.Recipe):
        machine = machine_of(session, target.seed)
        store = session.store
        return plans.plan(
            target,
            machine,
            vocabularies(store),
            session.data_folder,
            _packed_tokens(store),
            _shapes_outside(target, store),
            dry_run=True,
            watch=session.watch,
        )
    if isinstance(target, schema.ARCHITECTURES):
        return ModelPlan.of(target)
    if not isinstance(target, Artifact) and model_references.is_config(target):
        return ModelPlan.of(model_references.config(target))
    names = [*shipped(), *studies.shipped(), *catalogue.names()]
    return ModelPlan.of(_config_of(model_references.find(target, session.store, also=names)))


def tuning_study_plan(study: TuningStudy, session: Session) -> GridPlan:
    """Return the plan of a study of fine-tuning; its MODELs are found, and imported where needed.

    Raises RequestError for a MODEL that is not there, or that cannot be trained.
    """
    known = {
        name: _config_of(model_references.find(base.model, session.store, f"bases.{name}.model"))
        for name, base in study.bases.items()
        if base.model is not None
    }
    store = session.store
    return tuning_plan.plan(
        study, machine_of(session), vocabularies(store), session.data_folder, known
    )


def machine_of(session: Session, seed: int = 0) -> Machine:
    """Return this machine as estimates see it."""
    return Machine.of(session.store, session.runtime(seed), session.watch)


def planned(
    target: str,
    overrides: Sequence[str] = (),
    limits: Mapping[str, str] = MappingProxyType({}),
    without: Sequence[str] = (),
) -> Any:
    """Return what `plan` takes for a word of the command line.

    That is a recipe or a study with its overrides, or the word itself. `limits` are those of a
    recipe's budget by name. A study has budgets of its own, and takes the limit of time alone.
    """
    if target in shipped() or (model_references.is_config(target) and _is_recipe(target)):
        words = [f"budget.{name}={value}" for name, value in limits.items()]
        return load(target, *overrides, *words, without=without)
    if without and not _recipe_that_trains(target):
        raise RequestError(NO_STAGES.format(target))
    if studies.is_study(target):
        return _planned_study(target, target, overrides, limits)
    if not (overrides or limits or without):
        return target
    if recipe := _recipe_that_trains(target):
        return planned(recipe, overrides, limits, without)
    raise RequestError(
        f"{target}: limits and path=value words are for recipes; this is a single model"
    )


def _recipe_that_trains(model: str) -> str | None:
    """Return the shipped recipe that trains a model of the catalogue; None without such a one."""
    return next((name for name in shipped() if model in _trained_models(_read(name))), None)


NO_STAGES = "without: {} is not a recipe, and has no stages to leave out"


def _trained_models(raw: Mapping[str, Any]) -> list[object]:
    """Return the models of the catalogue that a raw recipe trains; a shape alone is none."""
    models = [stage.get("model") for stage in raw.get("stages", {}).values() if _trains(stage)]
    return [each.get("kind") if isinstance(each, Mapping) else each for each in models]


def _trains(stage: Mapping[str, Any]) -> bool:
    kind = schema.stage_class(stage.get("stage"))
    return kind is not None and issubclass(kind, schema.TrainingStage)


def _shapes_outside(recipe: schema.Recipe, store: Store) -> dict[str, schema.Architecture]:
    """Return the shapes of MODELs that a recipe's stages refer to, where they are known here.

    They are artifacts, and models of the hub that the catalogue has. Nothing is imported.
    """
    models = dict[str, schema.Architecture]()
    for stage in recipe.stages.values():
        for reference in stage.dependencies().values():
            if reference in recipe.stages or reference in models:
                continue
            shape = catalogue.published(reference)
            if shape is None and model_references.is_artifact(reference, store):
                shape = _config_of(model_references.find(reference, store))
            if shape is not None:
                models[reference] = shape
    return models


def planned_fields(
    target: Mapping[str, object],
    overrides: Sequence[str],
    limits: Mapping[str, str],
    without: Sequence[str] = (),
) -> schema.Recipe | AnyStudy:
    """Return what `plan` takes for the fields of a recipe or of a study."""
    if ("models" in target and "stages" not in target) or is_tuning_study(target):
        name = str(target.get("name", "the study"))
        if without:
            raise RequestError(NO_STAGES.format(name))
        return _planned_study(target, name, overrides, limits)
    words = [f"budget.{name}={value}" for name, value in limits.items()]
    return load(target, *overrides, *words, without=without)


def _planned_study(
    target: str | Mapping[str, object],
    name: str,
    overrides: Sequence[str],
    limits: Mapping[str, str],
) -> AnyStudy:
    if unknown := [f"--{limit}" for limit in limits if limit != "time"]:
        raise RequestError(
            f"{' and '.join(unknown)}: {name} is a study, of which only the --time can be limited;"
            " its runs train for its own budgets"
        )
    words = [f"limit.time={value}" for value in limits.values()]
    # `yes`: a plan is the way to learn how large a grid is.
    where, raw = studies.read_raw(target)
    if is_tuning_study(raw):
        return tuning_study_config.parse(config_load.override(raw, [*overrides, *words]), where)
    return studies.load(target, *overrides, *words, yes=True)


def _is_recipe(path: Any) -> bool:
    return Path(path).exists() and "stages" in config_load.read_yaml(Path(path))


def _config_of(artifact: Artifact) -> schema.Architecture:
    from flyweight.checkpoints import load_any as hub
    from flyweight.checkpoints.foreign_model import ForeignConfig

    config = hub.config(artifact.path / "model")
    if isinstance(config, ForeignConfig):
        raise RequestError(
            f"{artifact.id}: plan knows GPT-2, Llama and Qwen3 models and flyweight's own, not "
            f"the type {config.model_type}"
        )
    return config


def _packed_tokens(store: Store) -> dict[str, int]:
    """Return the tokens of the train split of every packed corpus, by its data config."""
    tokens: dict[str, int] = {}
    for path in store.root.glob("corpus-????????"):
        corpus = Artifact.glance(path)
        data = schema.Data.model_validate(corpus.identity["config"], context={"resolved": True})
        with suppress(FlyweightError):  # a damaged corpus is named when it is used
            tokens[vocabulary_key(data)] = _train_tokens(corpus)
    return tokens


def _train_tokens(corpus: Artifact) -> int:
    return Meta.load(corpus.path / "corpus" / "meta.json").splits["train"].tokens


def vocabularies(store: Store) -> dict[str, int]:
    """Return the vocabulary size of every corpus that is packed already, by its data config."""
    sizes = {}
    for path in store.root.glob("corpus-????????"):
        corpus = Artifact.glance(path)
        data = schema.Data.model_validate(corpus.identity["config"], context={"resolved": True})
        sizes[vocabulary_key(data)] = corpus.facts["vocab_size"]
    return sizes


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
            tokens = {key: _train_tokens(corpus) for key, corpus in packed.items()}
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
                known[reference] = _config_of(resolve(reference, f"stages.{name}.{role}"))
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
        or recipe in (*shipped(), *studies.shipped())
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
        comparisons=gather.comparisons(sources),
        task_comparisons=gather.task_comparisons(sources),
        tuning=tuple(_tuning(finished, name) for name in finished.tuned),
        validation=gather.on_validation(made),
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
