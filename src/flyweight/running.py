"""Recipes, studies and single stages: what is read, planned and run. Part of `flyweight.api`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flyweight import models, recipe as recipes
from flyweight.config import load as config_load, schema, study as study_config
from flyweight.core import machine
from flyweight.core.artifact import Artifact, Store
from flyweight.core.files import digest
from flyweight.core.runtime import Runtime
from flyweight.core.stage import Context
from flyweight.errors import RequestError
from flyweight.measuring import Model, data_for
from flyweight.plan import plan as plans
from flyweight.plan.grid import GridPlan
from flyweight.report import card, gather, page, study_page, study_summary, summary
from flyweight.session import DEFAULT, Session, working
from flyweight.study import cells as studies, run as study_run
from flyweight.unfinished import Unfinished


@dataclass(frozen=True)
class Run:
    """A finished recipe: `run["student"]` is a stage's artifact, `run.report` the page, `run.summary` all its numbers."""

    finished: recipes.Finished
    summary: summary.Summary
    report: Path
    folder: Path

    def __getitem__(self, stage: str) -> Artifact:
        return self.finished[stage]


@dataclass(frozen=True)
class StudyRun:
    """A finished study: `study.summary` has its cells and findings, `study.report` is the page."""

    summary: study_summary.StudySummary
    report: Path
    folder: Path


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("flyweight") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(recipe: str | Path, *overrides: str, without: Sequence[str] = ()) -> schema.Recipe:
    """Return a checked recipe: a shipped name or a YAML file, with `path=value` words applied and stages left out."""
    name = str(recipe)
    if name in shipped():
        text = (resources.files("flyweight") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        raw = config_load.parse_yaml(text, name)
    elif Path(recipe).exists() or Path(recipe).suffix in (".yaml", ".yml"):
        raw = config_load.read_yaml(Path(recipe))
    else:
        raise RequestError(f"there is no recipe {name!r}{config_load.nearest(name, shipped())}; or name a YAML file")
    return config_load.recipe(config_load.override(raw, overrides), name, without)


def plan(
    target: schema.Recipe | study_config.Study | schema.Architecture | Model, session: Session = DEFAULT
) -> plans.Plan | GridPlan | plans.ModelPlan:
    """Return what a recipe, study, config or model needs; nothing is allocated."""
    if session.device is not None or session.threads is not None:
        session.runtime()  # what this machine does not have is refused for a single model as well
    if isinstance(target, study_config.Study):
        return studies.plan(target, session.runtime(), _vocabularies(session.store), session.data_folder)
    if isinstance(target, schema.Recipe):
        return plans.plan(target, session.runtime(target.seed), _vocabularies(session.store), session.data_folder)
    if isinstance(target, schema.ARCHITECTURES):
        return plans.ModelPlan.of(target)
    if not isinstance(target, Artifact) and models.is_config(target):
        return plans.ModelPlan.of(models.config(target))
    return plans.ModelPlan.of(_config_of(models.find(target, session.store)))


def planned(target: str, overrides: Sequence[str] = (), limits: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Return what `plan` takes for a word of the command line: a recipe or study with its overrides, or the word itself.

    `limits` are those of a recipe's budget by name, of which a study, whose budgets are its own, knows the time alone.
    """
    if target in shipped() or (models.is_config(target) and _is_recipe(target)):
        return load(target, *overrides, *(f"budget.{name}={value}" for name, value in limits.items()))
    if studies.is_study(target):
        if unknown := [f"--{name}" for name in limits if name != "time"]:
            raise RequestError(
                f"{' and '.join(unknown)}: {target} is a study, of which only the --time can be limited; its runs train for its"
                " own budgets"
            )
        words = [f"limit.time={value}" for value in limits.values()]
        return studies.load(target, *overrides, *words, yes=True)  # planning a large grid is how one learns of its size
    if overrides or limits:
        raise RequestError(f"{target}: limits and path=value words are for recipes; this is a single model")
    return target


def _is_recipe(path: Any) -> bool:
    return Path(path).exists() and "stages" in config_load.read_yaml(Path(path))


def _config_of(artifact: Artifact) -> schema.Architecture:
    from flyweight.hub import models as hub
    from flyweight.hub.foreign import ForeignConfig

    found = hub.config(artifact.path / "model")
    if isinstance(found, ForeignConfig):
        raise RequestError(
            f"{artifact.id}: plan knows GPT-2, Llama and Qwen3 models and flyweight's own, not the type {found.model_type}"
        )
    return found


def _vocabularies(store: Store) -> dict[str, int]:
    """Return the vocabulary of every corpus that is packed already, by its data config."""
    found = {}
    for path in store.root.glob("corpus-????????"):
        packed = Artifact.glance(path)
        data = schema.Data.model_validate(packed.identity["config"], context={"resolved": True})
        found[plans.vocabulary_key(data)] = packed.facts["vocab_size"]
    return found


@working
def run(recipe: schema.Recipe | str | Path, session: Session = DEFAULT) -> Run:
    """Run a recipe: make each stage once, measure what it compares, write `summary.json` and `report.html`."""
    checked = recipe if isinstance(recipe, schema.Recipe) else load(recipe)
    context = session.context(checked.budget, checked.seed)
    planned = plans.plan(checked, context.runtime, {}, context.data_dir)

    def resolve(reference: str, where: str) -> Artifact:
        return models.find(reference, context.store, where, context.watch)

    with _unfinished(checked, context) as unfinished:
        runner = recipes.Runner(replace(context, note=unfinished.note))
        if planned.unread:  # what depends on a vocabulary is decided by the real one, before anything is trained
            real = {plans.vocabulary_key(data): runner.corpus(data).facts["vocab_size"] for data in planned.unread}
            planned = plans.plan(checked, context.runtime, real, context.data_dir)
        plans.refuse(planned)
        context.watch("planned", {"name": checked.name, "plan": planned})
        finished = recipes.run(checked, runner, resolve)
        result = _summarise(finished, context, planned)
        with context.store.recipe_folder(checked.name, context.watch) as folder:
            unfinished.replace(folder)
            recipes.link(folder, finished.stages)
            result.write(folder)
            card.write_beside(folder, context.store)
            report = page.write(folder)
            unfinished.done(folder)
    return Run(finished, result, report, folder)


def _unfinished(asked: schema.Recipe | study_config.Study, context: Context) -> Unfinished:
    """Return what keeps that which a recipe or study makes until its results are written."""
    return Unfinished(context.store, asked.name, digest(asked.model_dump(mode="json"))[:8], context.command, context.watch)


def _summarise(finished: recipes.Finished, context: Context, planned: plans.Plan) -> summary.Summary:
    recipe = finished.recipe
    chosen = {name: made.artifact.facts["chosen"] for name, made in finished.stages.items() if made.artifact.stage == "select"}
    sources = [
        gather.Source(
            name,
            finished.stages[name].config,
            finished.stages[name].artifact,
            {kind: made.artifact for kind, made in kinds.items()},
            chosen,
        )
        for name, kinds in finished.measured.items()
    ]
    compared = gather.models(recipe, sources)
    corpora = [
        gather.corpus(Artifact.open(context.store.root / name), made.config.data.context, made.artifact)
        for name, made in finished.floors.items()
    ]
    return summary.Summary(
        name=recipe.name,
        seed=recipe.seed,
        created=gather.now(),
        command=context.command,
        seconds=context.meter.seconds(),
        environment=summary.Environment(**machine.describe(context.runtime.device, context.runtime.threads)),
        budget=gather.budget(recipe, context.meter, compared, planned.totals),
        corpus=tuple(corpora),
        models=compared,
        comparisons=gather.comparisons(sources),
        stages=tuple(
            summary.StageSummary(
                name=name,
                id=made.artifact.id,
                stage=made.artifact.stage,
                seconds=made.artifact.facts["took"],
                reused=made.reused,
                evaluate=gather.evaluation(made.artifact),
            )
            for name, made in finished.stages.items()
        ),
    )


def study(target: study_config.Study | str | Path, *overrides: str, yes: bool = False, session: Session = DEFAULT) -> StudyRun:
    """Run a study, a shipped name or a YAML file: every cell of its grid once for each seed, then tables, plots and findings.

    Raises RequestError before anything is trained for a study that contradicts itself or its texts, and for a grid over its
    `limit` unless `yes`.
    """

    def over(study: study_config.Study) -> list[str]:
        return studies.over_time(_study_plan(study, session.runtime(), session.store, session.data_folder))

    if isinstance(target, study_config.Study):
        if overrides:
            raise RequestError("study: path=value words are for a name or a file; this study is checked already")
        checked = studies.checked(target, target.name, yes, over)
    else:
        checked = studies.load(target, *overrides, yes=yes, over=over)
    return _study(checked, yes, session)


@working
def _study(checked: study_config.Study, yes: bool, session: Session) -> StudyRun:
    context = session.context(seed=checked.seeds[0])
    planned = _study_plan(checked, context.runtime, context.store, context.data_dir)
    if not planned.cells:
        raise RequestError("\n".join([f"{checked.name}:", *(f"  {why}" for why in (*planned.warnings, *planned.left_out))]))
    if (warnings := studies.over_time(planned)) and not yes:
        raise RequestError("\n".join([f"{checked.name}:", *(f"  {warning}" for warning in warnings)]))
    with _unfinished(checked, context) as unfinished:
        result = study_run.run(checked, replace(context, note=unfinished.note), planned)
        with context.store.recipe_folder(checked.name, context.watch) as folder:
            unfinished.replace(folder)
            result.write(folder)
            report = study_page.write(folder)
            unfinished.done(folder)
    return StudyRun(result, report, folder)


def _study_plan(checked: study_config.Study, runtime: Runtime, store: Store, data_dir: Path | None) -> GridPlan:
    """Return a study's plan; a text packed before may have changed since, so its vocabulary alone is no reason to refuse."""
    try:
        return studies.plan(checked, runtime, _vocabularies(store), data_dir)
    except RequestError:
        return studies.plan(checked, runtime, {}, data_dir)


def train(data: str, *overrides: str, session: Session = DEFAULT) -> Run:
    """Train a good small model of one text with the defaults for this machine: the shipped recipe `train` on `data`."""
    raw = config_load.parse_yaml((resources.files("flyweight") / "recipes" / "train.yaml").read_text(encoding="utf-8"), "train")
    raw = config_load.override(
        {**raw, "name": f"train-{_plain(Path(data).stem)}", "data": {**raw["data"], "corpus": data}}, overrides
    )
    return run(plans_for(raw, session), session)


def plans_for(raw: Mapping[str, Any], session: Session) -> schema.Recipe:
    """Return the `train` recipe with a model, tokenizer and dropout that fit the text, the budget and this machine."""
    from flyweight.plan.suggest import suggest

    return config_load.recipe(suggest(raw, session.runtime(), session.data_folder), "train")


def _plain(name: str) -> str:
    """Return a name that can be a run's folder."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    return kept.strip("-.")[:40] or "text"


@working
def stage(
    verb: str,
    fields: Mapping[str, Any],
    overrides: Sequence[str] = (),
    name: str | None = None,
    data: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Run one stage as a recipe of its own, which is what `distill`, `quantize` and their like are.

    `overrides` are relative to the stage (`train.steps=400`). `name` is that of the run: by default the verb, the kind where
    there is one, and the model's.
    A teacher's own tokenizer is the corpus' one unless `data.tokenizer` is given. `data` is the text to measure on, for models
    that came without their corpus; without either, likelihood is not measured.
    """
    source = str(fields.get("input") or fields.get("teacher"))
    artifact = models.find(source, session.store, watch=session.watch)
    report: dict[str, Any] = {}
    if "teacher" in fields:
        tokenizer = artifact.path / "model" / "tokenizer.json"
        if tokenizer.is_file() and not any(word.startswith("data.tokenizer") for word in overrides):
            fields = {**fields, "data": {"tokenizer": {"kind": "file", "path": str(tokenizer)}}}
    elif data is not None:
        report = {"data": data_for(artifact, data)}
    elif "corpus" not in artifact.facts:
        session.watch("unscored", {"model": source})
        report = {"measure": ["bench", "audit"]}
    words = [f"stages.{verb}.{word}" for word in overrides]
    raw = {
        "name": name or "-".join([verb, *([str(fields["kind"])] if "kind" in fields else []), _plain(Path(source).name)]),
        "seed": session.seed,
        "stages": {verb: {"stage": verb, **fields}},
        "report": report,
    }
    return run(config_load.recipe(config_load.override(raw, words), verb), session)
