"""Read, plan and run recipes and studies.

Part of `flyweight.api`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flyweight.api import model_references
from flyweight.api.forgetting import forget
from flyweight.api.measurements import Model
from flyweight.api.results import Run as Run, StudyRun as StudyRun
from flyweight.api.session import DEFAULT, Session, shows_progress, working
from flyweight.api.signatures import shown_as_written
from flyweight.config import catalogue, load as config_load, schema, study as study_config
from flyweight.core import machine
from flyweight.core.files import digest
from flyweight.core.runtime import Runtime
from flyweight.errors import RequestError
from flyweight.pipeline import recipe as recipes
from flyweight.planning import rate, recipe_plan as plans
from flyweight.planning.budget import limitless, shared_time
from flyweight.planning.grid import GridPlan
from flyweight.planning.surroundings import recipe_seconds
from flyweight.records import run_summary
from flyweight.reports import gather
from flyweight.reports.cards import card
from flyweight.reports.pages import run as page, study as study_page
from flyweight.store.artifact import Artifact, Store
from flyweight.store.budget import BudgetSpent
from flyweight.store.run_registry import Unfinished
from flyweight.store.stage import Context
from flyweight.studies import cells as studies, run as study_run


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("flyweight") / "assets" / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load(
    recipe: str | Path | Mapping[str, Any], *overrides: str, without: Sequence[str] = ()
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


def plan(
    target: schema.Recipe | study_config.Study | schema.Architecture | Model,
    session: Session = DEFAULT,
) -> plans.Plan | GridPlan | plans.ModelPlan:
    """Return what a recipe, study, config or model needs; nothing is allocated."""
    if session.device is not None or session.threads is not None:
        session.runtime()  # a device that this machine lacks is refused for a single model too
    if isinstance(target, study_config.Study):
        return studies.plan(
            target, session.runtime(), _vocabularies(session.store), session.data_folder
        )
    if isinstance(target, schema.Recipe):
        runtime = session.runtime(target.seed)
        timed, _ = _timed(target, runtime, session)
        return plans.plan(timed, runtime, _vocabularies(session.store), session.data_folder)
    if isinstance(target, schema.ARCHITECTURES):
        return plans.ModelPlan.of(target)
    if not isinstance(target, Artifact) and model_references.is_config(target):
        return plans.ModelPlan.of(model_references.config(target))
    names = [*shipped(), *studies.shipped(), *catalogue.names()]
    return plans.ModelPlan.of(_config_of(model_references.find(target, session.store, also=names)))


def planned(
    target: str, overrides: Sequence[str] = (), limits: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Return what `plan` takes for a word of the command line.

    That is a recipe or a study with its overrides, or the word itself. `limits` are those of a
    recipe's budget by name. A study has budgets of its own, and takes the limit of time alone.
    """
    if target in shipped() or (model_references.is_config(target) and _is_recipe(target)):
        return load(
            target, *overrides, *(f"budget.{name}={value}" for name, value in limits.items())
        )
    if studies.is_study(target):
        return _planned_study(target, target, overrides, limits)
    if overrides or limits:
        raise RequestError(
            f"{target}: limits and path=value words are for recipes; this is a single model"
        )
    return target


def planned_fields(
    target: Mapping[str, Any], overrides: Sequence[str], limits: Mapping[str, str]
) -> schema.Recipe | study_config.Study:
    """Return what `plan` takes for the fields of a recipe or of a study."""
    if "models" in target and "stages" not in target:
        name = str(target.get("name", "the study"))
        return _planned_study(target, name, overrides, limits)
    return load(target, *overrides, *(f"budget.{name}={value}" for name, value in limits.items()))


def _planned_study(
    target: str | Mapping[str, Any], name: str, overrides: Sequence[str], limits: Mapping[str, str]
) -> study_config.Study:
    if unknown := [f"--{limit}" for limit in limits if limit != "time"]:
        raise RequestError(
            f"{' and '.join(unknown)}: {name} is a study, of which only the --time can be limited;"
            " its runs train for its own budgets"
        )
    words = [f"limit.time={value}" for value in limits.values()]
    # `yes`: a plan is the way to learn how large a grid is.
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


def _vocabularies(store: Store) -> dict[str, int]:
    """Return the vocabulary size of every corpus that is packed already, by its data config."""
    sizes = {}
    for path in store.root.glob("corpus-????????"):
        corpus = Artifact.glance(path)
        data = schema.Data.model_validate(corpus.identity["config"], context={"resolved": True})
        sizes[plans.vocabulary_key(data)] = corpus.facts["vocab_size"]
    return sizes


@shows_progress
def run(
    recipe: schema.Recipe | str | Path | Mapping[str, Any],
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


@working
def run_checked(asked: schema.Recipe, session: Session, began: float | None = None) -> Run:
    """Run a checked recipe; `began` is when its budget's clock started, by `time.monotonic`.

    Raises the errors of `run`.
    """
    context = session.context(asked.budget, asked.seed)
    meter = context.meter
    if began is not None:
        meter.started = began

    def resolve(reference: str, where: str) -> Artifact:
        return model_references.find(reference, context.store, where, context.watch)

    recipes.check_inputs(asked, resolve)
    checked, meter.after = _timed(asked, context.runtime, session)
    meter.shared = checked is not asked
    planned = plans.plan(checked, context.runtime, {}, context.data_dir)
    with _unfinished(asked, context) as unfinished:
        runner = recipes.Runner(replace(context, note=unfinished.note))
        if planned.unread:  # read the texts first: limits are checked with their real vocabularies
            real = {
                plans.vocabulary_key(data): runner.corpus(data).facts["vocab_size"]
                for data in planned.unread
            }
            planned = plans.plan(checked, context.runtime, real, context.data_dir)
        plans.refuse(planned)
        unfinished.warn_of_replacing()
        context.watch("planned", {"name": checked.name, "plan": planned})
        finished = recipes.run(checked, runner, resolve)
        result = _summarise(finished, context, planned, unfinished.work)
        with context.store.recipe_folder(checked.name, context.watch) as folder:
            unfinished.replace(folder)
            recipes.link_stages(folder, finished.stages)
            result.write(folder)
            card.write_beside(folder, context.store)
            report = page.write(folder)
            if finished.stopped is None:
                unfinished.done(folder)
    if finished.stopped is not None:
        names = ", ".join(f"{checked.name}:{name}" for name in finished.stages)
        raise BudgetSpent(
            f"{finished.stopped}. Finished and measured: {names}; report: {report}"
        ) from finished.stopped
    if all(stage.reused for stage in result.stages):
        context.watch("all kept", {"name": checked.name})
    return Run(finished, result, report, folder)


def _recipe(
    recipe: schema.Recipe | str | Path | Mapping[str, Any],
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
    known = (
        not isinstance(recipe, str)
        or recipe in (*shipped(), *studies.shipped())
        or Path(recipe).exists()
    )
    run = None if known else model_references.description_of_run(str(recipe), session.store)
    if run is not None:
        raise RequestError(f"{recipe!r} is not a recipe, but a run: {run}")
    return load(recipe, *overrides, without=without)


def _timed(
    recipe: schema.Recipe, runtime: Runtime, session: Session
) -> tuple[schema.Recipe, float]:
    """Return the recipe with its time shared out, and the seconds of measuring after training.

    Only a recipe that trains by the clock needs this machine's rates.
    """
    trained = [stage for stage in recipe.stages.values() if isinstance(stage, schema.TrainingStage)]
    if recipe.budget.time is None or not any(
        stage.train.time or limitless(stage) for stage in trained
    ):
        return recipe, 0.0
    precision = runtime.precision(trained[0].train.precision, rate.WIDTH)
    rates = rate.kept(session.store, runtime, precision, session.watch).rates
    before, after = recipe_seconds(recipe, rates, session.data_folder)
    return shared_time(recipe, before + after), after


def _unfinished(asked: schema.Recipe | study_config.Study, context: Context) -> Unfinished:
    """Return the registry entry that keeps a run's artifacts until its results are written."""
    return Unfinished(
        store=context.store,
        name=asked.name,
        work=request_of(asked),
        command=context.command,
        watch=context.watch,
    )


def request_of(asked: schema.Recipe | study_config.Study) -> str:
    """Return a digest of a request: it differs between requests of the same name."""
    return digest(asked.model_dump(mode="json"))[:8]


def _summarise(
    finished: recipes.Finished, context: Context, planned: plans.Plan, request: str
) -> run_summary.Summary:
    recipe = finished.recipe
    chosen = {
        name: stage.artifact.facts["chosen"]
        for name, stage in finished.stages.items()
        if stage.artifact.stage == "select"
    }
    sources = [
        gather.Source(
            name,
            finished.stages[name].config,
            finished.stages[name].artifact,
            {kind: measured.artifact for kind, measured in kinds.items()},
            chosen,
        )
        for name, kinds in finished.measured.items()
    ]
    compared = gather.models(recipe, sources)
    corpora = []
    for name, made in finished.floors.items():
        assert isinstance(made.config, schema.Floors)
        packed = Artifact.open(context.store.root / name)
        corpora.append(gather.corpus(packed, made.config.data.context, made.artifact))
    return run_summary.Summary(
        name=recipe.name,
        seed=recipe.seed,
        created=gather.now(),
        command=context.command,
        request=request,
        seconds=context.meter.seconds(),
        environment=run_summary.Environment(
            **machine.describe(context.runtime.device, context.runtime.threads)
        ),
        budget=gather.budget(recipe, context.meter, compared, planned.totals),
        corpus=tuple(corpora),
        models=compared,
        comparisons=gather.comparisons(sources),
        stages=tuple(
            run_summary.StageSummary(
                name=name,
                id=stage.artifact.id,
                stage=stage.artifact.stage,
                seconds=stage.artifact.facts["took"],
                reused=stage.reused,
                evaluate=gather.evaluation(stage.artifact),
            )
            for name, stage in finished.stages.items()
        ),
    )


@shown_as_written
def study(
    target: study_config.Study | str | Path | Mapping[str, Any],
    *overrides: str,
    yes: bool = False,
    session: Session = DEFAULT,
) -> StudyRun:
    """Run a study: every cell of its grid once for each seed, then tables, plots and findings.

    `target` is a shipped name, a YAML file, the fields of a study, or a checked study. Raises
    RequestError before any training for a study that contradicts itself or its texts. Raises it
    also for a grid over its `limit`, unless `yes`.
    """

    def over(study: study_config.Study) -> list[str]:
        return studies.over_time(
            _study_plan(study, session.runtime(), session.store, session.data_folder)
        )

    if isinstance(target, study_config.Study):
        if overrides:
            raise RequestError(
                "study: path=value words are for a name or a file; this study is checked already"
            )
        checked = studies.checked(target, target.name, yes, over)
    else:
        checked = studies.load(target, *overrides, yes=yes, over=over)
    return _study(checked, yes, session)


@working
def _study(checked: study_config.Study, yes: bool, session: Session) -> StudyRun:
    context = session.context(seed=checked.seeds[0])
    planned = _study_plan(checked, context.runtime, context.store, context.data_dir)
    if not planned.cells:
        reasons = (*planned.warnings, *planned.left_out)
        raise RequestError("\n".join([f"{checked.name}:", *(f"  {why}" for why in reasons)]))
    if (warnings := studies.over_time(planned)) and not yes:
        raise RequestError(
            "\n".join([f"{checked.name}:", *(f"  {warning}" for warning in warnings)])
        )
    with _unfinished(checked, context) as unfinished:
        unfinished.warn_of_replacing()
        result = study_run.run(checked, replace(context, note=unfinished.note), planned)
        result = result.model_copy(update={"request": unfinished.work})
        with context.store.recipe_folder(checked.name, context.watch) as folder:
            unfinished.replace(folder)
            result.write(folder)
            report = study_page.write(folder)
            unfinished.done(folder)
    return StudyRun(result, report, folder)


def _study_plan(
    checked: study_config.Study, runtime: Runtime, store: Store, data_dir: Path | None
) -> GridPlan:
    """Return a study's plan.

    A text may have changed since it was packed: where its old vocabulary leads to a refusal, the
    plan is made without it.
    """
    try:
        return studies.plan(checked, runtime, _vocabularies(store), data_dir)
    except RequestError:
        return studies.plan(checked, runtime, {}, data_dir)


def plain_name(name: str) -> str:
    """Return a name that can be the folder of a run."""
    kept = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-"
        for letter in name
    )
    return kept.strip("-.")[:40] or "text"
