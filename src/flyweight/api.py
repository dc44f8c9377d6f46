"""The Python interface: the same words as the command line, which calls these functions and nothing else.

Every function takes a `session`: the runs root (default `FLYWEIGHT_RUNS`, else `./runs`), the folder of local copies of corpora
(default `FLYWEIGHT_DATA`), the device, the threads. Errors are RequestError (the request was wrong) and FlyweightError (it
failed).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight import garbage, models, recipe as recipes
from flyweight.config import load as config_load, schema, study as study_config
from flyweight.core import machine
from flyweight.core.artifact import Artifact, Store
from flyweight.core.files import write_text
from flyweight.core.metric import Metric
from flyweight.core.stage import Context
from flyweight.errors import RequestError
from flyweight.evaluate.compare import table
from flyweight.evaluate.intervals import UNITS, UnitScores
from flyweight.hub.fetch import imported
from flyweight.plan import plan as plans
from flyweight.plan.compared import Compared, Size
from flyweight.plan.grid import GridPlan
from flyweight.report import card, gather, page, study_page, study_summary, summary
from flyweight.session import DEFAULT, Session, working
from flyweight.study import cells as studies, run as study_run

if TYPE_CHECKING:
    from flyweight.evaluate.chat import Chat
    from flyweight.plan.doctor import Health

Model = str | Path | Artifact
"""What MODEL may be: see `flyweight.models`."""


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


@dataclass(frozen=True)
class Measurement:
    """A measurement's artifact; its metrics are attributes: `evaluate(...).bits_per_byte.value`, `audit(...).passed`."""

    artifact: Artifact
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            value = self.values[name]
        except KeyError:
            raise AttributeError(f"no metric {name!r}; there are {', '.join(self.values)}") from None
        return Metric(**value) if isinstance(value, dict) and set(value) == set(Metric.__dataclass_fields__) else value

    def json(self) -> dict[str, Any]:
        """Return everything measured as plain data."""
        return {"id": self.artifact.id, **self.values}


# --- recipes ---


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


def planned(target: str, overrides: Sequence[str], session: Session = DEFAULT) -> Any:
    """Return what `plan` takes for a word of the command line: a recipe with its overrides, or the word itself."""
    if target in shipped() or (models.is_config(target) and _is_recipe(target)):
        return load(target, *overrides)
    if studies.is_study(target):
        words = [word.replace("budget.time=", "limit.time=", 1) for word in overrides]
        return studies.load(target, *words, yes=True)  # planning a large grid is how one learns of its size
    if overrides:
        raise RequestError(f"{target}: limits and path=value words are for recipes; this is a single model")
    return target


def _is_recipe(path: Any) -> bool:
    return Path(path).exists() and "stages" in config_load.read_yaml(Path(path))


def _config_of(artifact: Artifact) -> schema.Architecture:
    from flyweight.hub import models as hub
    from flyweight.hub.foreign import ForeignConfig

    found = hub.config(artifact.path / "model")
    if isinstance(found, ForeignConfig):
        raise RequestError(f"{artifact.id}: a {found.model_type} model is behind an adapter; only flyweight's own are planned")
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
    planned = plans.plan(checked, context.runtime, _vocabularies(context.store), context.data_dir)
    plans.refuse(planned)
    context.watch("planned", {"name": checked.name, "plan": planned})

    def resolve(reference: str, where: str) -> Artifact:
        return models.find(reference, context.store, where, context.watch)

    finished = recipes.run(checked, context, resolve)
    result = _summarise(finished, context, planned)
    with context.store.recipe_folder(checked.name, context.watch) as folder:
        result.write(folder)
        card.write_beside(folder, context.store)
        report = page.write(folder)
    return Run(finished, result, report, folder)


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

    Raises RequestError before anything runs for a study that contradicts itself, and for a grid over its `limit` unless `yes`.
    """
    if isinstance(target, study_config.Study):
        if overrides:
            raise RequestError("study: path=value words are for a name or a file; this study is checked already")
        checked = studies.checked(target, target.name, yes)
    else:
        checked = studies.load(target, *overrides, yes=yes)
    context = session.context(seed=checked.seeds[0])
    planned = studies.plan(checked, context.runtime, _vocabularies(context.store), context.data_dir)
    if planned.warnings and not yes:
        raise RequestError(
            "\n".join([f"{checked.name}:", *(f"  {warning}; or start it with --yes" for warning in planned.warnings)])
        )
    result = study_run.run(checked, context, planned)
    with context.store.recipe_folder(checked.name, context.watch) as folder:
        result.write(folder)
        report = study_page.write(folder)
    return StudyRun(result, report, folder)


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

    `overrides` are relative to the stage (`train.steps=400`). `name` is that of the run: by default the verb and the model's.
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
        report = {"data": _data_for(artifact, data)}
    elif "corpus" not in artifact.facts:
        session.watch("unscored", {"model": source})
        report = {"measure": ["bench", "audit"]}
    words = [f"stages.{verb}.{word}" for word in overrides]
    raw = {
        "name": name or f"{verb}-{_plain(Path(source).name)}",
        "seed": session.seed,
        "stages": {verb: {"stage": verb, **fields}},
        "report": report,
    }
    return run(config_load.recipe(config_load.override(raw, words), verb), session)


# --- measurements ---


def _measure(kind: str, model: Model, session: Session, **fields: Any) -> Measurement:
    context = session.context(seed=session.seed)
    if not isinstance(model, Artifact) and models.is_config(model):
        if kind == "evaluate":
            raise RequestError(f"{model}: this is a config; its random weights have nothing to evaluate")
        fresh = schema.Initialise(stage="init", model=models.config(model))
        artifact = recipes.Runner(context).make(str(model), fresh, {}).artifact
    else:
        artifact = models.find(model, context.store, watch=context.watch)
    data = fields.pop("data", None)
    if data is not None:
        fields["data"] = _data_for(artifact, data)
    config = config_load.check_stage(
        {"stage": kind, "input": artifact.id, **{k: v for k, v in fields.items() if v is not None}}
    )
    made = recipes.Runner(context).make(artifact.id, config, {"input": artifact}).artifact
    return Measurement(made, made.metrics())


def _data_for(artifact: Artifact, data: str) -> dict[str, Any]:
    """Return a data config that reads `data` with the model's own tokenizer and context."""
    tokenizer = artifact.path / "model" / "tokenizer.json"
    if not tokenizer.exists():
        raise RequestError(f"{artifact.id} has no tokenizer: it cannot read {data}")
    from flyweight.hub import models as hub

    window = hub.window(hub.config(artifact.path / "model"))
    return {"corpus": data, "tokenizer": {"kind": "file", "path": str(tokenizer)}, "context": window}


@working
def evaluate(
    model: Model,
    data: str | None = None,
    split: str = "test",
    window: int | None = None,
    stride: int | None = None,
    session: Session = DEFAULT,
) -> Measurement:
    """Return nll, perplexity, word_perplexity and bits_per_byte of a model on a split, with 95 % intervals."""
    return _measure("evaluate", model, session, data=data, split=split, window=window, stride=stride)


@working
def tasks(
    model: Model,
    tasks: Sequence[str],
    task_path: Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    session: Session = DEFAULT,
) -> dict[str, dict[str, Any]]:
    """Return lm-eval's metrics of a model by task, each with its standard error; `task_path` holds tasks of one's own."""
    from flyweight.hub import harness

    artifact = models.find(model, session.store, watch=session.watch)
    device = session.runtime().device
    return harness.evaluate(artifact.path / "model", tasks, device, task_path, few_shot, limit, seed=session.seed)


@working
def bench(model: Model, session: Session = DEFAULT, **options: int | None) -> Measurement:
    """Return forward, prefill and decode speed, peak memory and weight bytes, measured in a fresh process."""
    return _measure("bench", model, session, **options)


@working
def audit(model: Model, data: str | None = None, session: Session = DEFAULT) -> Measurement:
    """Return the audit's checks and whether all of them passed."""
    return _measure("audit", model, session, data=data)


@working
def floors(data: str, split: str = "test", session: Session = DEFAULT, tokenizer: str | None = None) -> Measurement:
    """Return what unigram, bigram and Kneser-Ney 5-gram models of a corpus reach on its split, and what they cost.

    `tokenizer` is a kind, or YAML as in a recipe's `data.tokenizer`; by default the corpus' own.
    """
    context = session.context(seed=session.seed)
    given = {} if tokenizer is None else {"tokenizer": config_load.parse_yaml(tokenizer, "--tokenizer")}
    config = config_load.check_stage({"stage": "floors", "data": {"corpus": data, **given}, "split": split})
    made = recipes.Runner(context).make(data, config, {}).artifact
    return Measurement(made, made.metrics())


@working
def compare(
    compared: Sequence[Model],
    data: str | None = None,
    split: str = "test",
    session: Session = DEFAULT,
    against: Model | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> Compared:
    """Return the models by bits per byte, best first, each with its paired interval against one of them.

    `against` names that one, which is the best unless named. Raises RequestError where they were not scored on the same text.
    """
    store = session.store
    found = {_name(model): models.find(model, store, watch=session.watch) for model in compared}
    if len(found) < 2:
        raise RequestError("compare needs at least two different models")
    if against is not None and _name(against) not in found:
        raise RequestError(f"--against {_name(against)}: it is not among the models compared: {', '.join(found)}")
    results = {name: evaluate(artifact, data, split, window, stride, session) for name, artifact in found.items()}
    scores = {name: UnitScores.load(result.artifact.path / UNITS) for name, result in results.items()}
    stood = table(scores, None if against is None else _name(against))
    sizes = {name: Size.of(artifact.path / "model", artifact.facts) for name, artifact in found.items()}
    same = len({score.tokenizer for score in scores.values()}) == 1
    return Compared(stood, sizes, same, split)


def _name(model: Model) -> str:
    return model.id if isinstance(model, Artifact) else str(model)


# --- text ---


@working
def generate(
    model: Model,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    session: Session = DEFAULT,
) -> str:
    """Return the model's continuation of `prompt`; `temperature` 0 is greedy. `on_text` hears each new piece as it comes."""
    from flyweight.evaluate import continuation

    artifact = models.find(model, session.store, watch=session.watch)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    device = session.runtime().device
    return continuation.text(artifact.path / "model", prompt, max_new_tokens, stop, on_text, device, options)


@working
def chat(
    model: Model,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    session: Session = DEFAULT,
) -> Chat:
    """Return a conversation with a model: `chat(...).say("Hello")` answers, its `turns` keep what was said.

    A model whose files bring a chat template is talked to in it, after `system`; any other goes on with one running text.
    """
    from flyweight.evaluate.chat import Chat, Options

    artifact = models.find(model, session.store, watch=session.watch)
    options = Options(max_new_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop))
    return Chat(artifact.path / "model", session.runtime().device, system, options)


# --- in and out ---


@working
def import_(reference: str | Path, out: Path | None = None, session: Session = DEFAULT) -> Artifact:
    """Return a GPT-2, Llama or Qwen3 model (a Hugging Face folder or `hf:owner/name`) as an artifact of ours.

    It lies in the runs root, and in the new folder `out` as well where one is named. Raises RequestError with every reason why
    the model cannot become one of ours.
    """
    session.store.prepare()
    artifact = imported(str(reference), session.store, card.write, session.watch, session.command, only_ours=True)
    return artifact if out is None else artifact.copy(out)


@working
def export(model: Model, to: str, out: str | Path, type: str = "f16", session: Session = DEFAULT) -> Any:
    """Write a model for other programs and return what was written: `to` is `hf` (a folder) or `gguf` (a file).

    A model card with every measurement of the model in the runs root is written as the folder's README.md, or beside the file
    as FILE.md. `type` is that of a GGUF file's matrices: f16, q8_0 or q4_0. Raises RequestError with every reason why a format
    cannot hold the model.
    """
    from flyweight.export import gguf, hf
    from flyweight.hub.checkpoint import is_checkpoint

    if to not in ("hf", "gguf"):
        raise RequestError(f"--to {to}: known are hf and gguf")
    artifact, out = models.find(model, session.store, watch=session.watch), Path(out)
    folder, title = artifact.path / "model", out.name or artifact.id
    if not folder.is_dir():
        raise RequestError(f"{artifact.id} holds no model")
    if to == "hf":
        done = hf.write(folder, out, lambda *written: card.exported(artifact, session.store, title, "transformers", *written))
        return replace(done, card=out / card.FILE)
    if is_checkpoint(folder):
        raise RequestError(f"{artifact.id} is behind an adapter; only models that became flyweight's own are written as GGUF")
    done, beside = gguf.write(folder, out, type), out.with_name(f"{out.name}.md")
    write_text(beside, card.exported(artifact, session.store, title, "gguf", f"GGUF, {done.kind}, {type}", done.notes))
    return replace(done, card=beside)


# --- housekeeping ---


@working
def report(runs: Sequence[str | Path], out: Path, session: Session = DEFAULT) -> Path:
    """Write one page over several finished runs and return its path; a single run's own report and cards are written anew."""
    store = session.store
    folders = [path if path.is_dir() else store.root / path for path in map(Path, runs)]
    if len(folders) > 1:
        return page.write_many(folders, out)
    if (folders[0] / study_summary.FILE).is_file():
        return study_page.write(folders[0])
    if not _within(folders[0], store.root) or not (folders[0] / summary.FILE).is_file():
        return page.write(folders[0])
    with store.recipe_folder(folders[0].name) as folder:
        card.write_beside(folder, store)
        return page.write(folder)


def shipped_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    return studies.shipped()


def _within(path: Path, folder: Path) -> bool:
    """Return whether a path lies right in a folder; `Path.resolve` would fail for a link that leads to itself."""
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)


def shipped_models() -> list[str]:
    """Return the names of the catalogue."""
    from flyweight.model import catalogue

    return list(catalogue.names())


def artifacts(session: Session = DEFAULT) -> dict[str, Any]:
    """Return what is under the runs root: `items` (artifacts, half-made and damaged ones too), `recipes`, `bytes` of all."""
    return models.listed(session.store)


def gc(
    among: Collection[str] | None = None, older_than: float = 0.0, dry_run: bool = False, session: Session = DEFAULT
) -> garbage.Garbage:
    """Remove what no finished recipe refers to, half-made artifacts that nobody makes and lock files that nobody holds.

    Returns what was removed, or with `dry_run` what would be. `among` restricts it to these names, `older_than` to what was
    made that many seconds ago. Raises FlyweightError where another process works in the runs root.
    """
    if dry_run:
        found = garbage.find(session.store, older_than)
        return replace(found, items=tuple(item for item in found.items if among is None or item.path.name in among))
    return garbage.collect(session.store, among, older_than, session.watch)


def doctor(session: Session = DEFAULT, quick: bool = False) -> Health:
    """Return what this machine can do, measured: devices, dtypes, kernels, memory, folders, libraries, each with a verdict.

    `quick` leaves out libraries that take seconds to import. `ok` is false where something that is needed is broken.
    """
    from flyweight.plan import doctor

    return doctor.examine(session.runtime(), session.store.root, session.data_dir, quick, session.watch)
