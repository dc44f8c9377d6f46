"""Running a recipe: its stages in order of reference, each made once, then the measurements."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any, tokenizer_files
from flyweight.config import load, schema
from flyweight.config.schema import SAME_AS, STAGE_CONFIGS, StageConfig, Strict
from flyweight.config.stage import sources_of_tokens
from flyweight.config.stream import NOT_PACKED
from flyweight.config.units import format_size, format_time
from flyweight.core import allocator, machine
from flyweight.core.files import digest, disk_errors, reason, sha256
from flyweight.core.runtime import Precision
from flyweight.data import stages as data_stages
from flyweight.data.pack import source_fingerprint
from flyweight.data.sources import with_tokenizer
from flyweight.data.tasks.folder import examples_fingerprint, read_splits
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_file import tokenizer_path
from flyweight.decode import chat_template
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import tasks as task_scoring
from flyweight.pipeline import before_after, lm_eval_checks, stream_checks
from flyweight.pipeline.before_after import BeforeAfter
from flyweight.planning import evaluating
from flyweight.planning.budget import shared_time
from flyweight.planning.stages import stage_of
from flyweight.records.scores import SCORED
from flyweight.reports.cards import card
from flyweight.store.artifact import PARTIAL, Artifact, Draft, Identity
from flyweight.store.budget import BudgetSpent
from flyweight.store.stage import Context, Inputs, PlannedInputs, Stage, drops, identity_config
from flyweight.training.finetune import tunable_config
from flyweight.training.model_training import check_data
from flyweight.training.reading import check_alignable

LIMIT_OF = {
    "tokens": "tokens",
    "flops": "flops",
    "seconds": "time",
    "total_flops": "flops",
    "total_seconds": "time",
}

ROW_MASKS = 1
"""What dropout by row adds to a stage's version: it drew other masks before, without it nothing
changed."""

Resolver = Callable[[str, str], Artifact]
"""Returns the artifact of a MODEL outside the recipe, which a field (the second text) names."""


@dataclass
class StageResult:
    """A finished stage of a recipe: its artifact, and whether it was there already."""

    name: str
    config: StageConfig
    artifact: Artifact
    reused: bool
    inputs: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])


@dataclass
class Runner:
    """Makes stages, each once: finds its inputs, corpus and identity, then asks the store."""

    context: Context
    corpora: dict[str, Artifact] = field(default_factory=dict)
    encoded: dict[str, Artifact] = field(default_factory=dict)

    def corpus(self, data: schema.Data, model: Artifact | None = None) -> Artifact:
        """Return the packed corpus of a data config, packing it when no run has done so.

        `model` is what a tokenizer of kind `model` is taken from.
        """
        data = with_tokenizer(data, self.context.data_dir)
        key = _packing(data).model_dump_json()
        if key in self.corpora:
            return self.corpora[key]
        read = data
        if isinstance(data.tokenizer, schema.ModelTokenizer):
            data, read = _own_tokenizer(data, model)
            key = _packing(data).model_dump_json()
        if key not in self.corpora:
            self.corpora[key] = self._packed(data, read, model)
        return self.corpora[key]

    def _packed(self, data: schema.Data, read: schema.Data, model: Artifact | None) -> Artifact:
        """Return a packed corpus, made now or found.

        `read` is `data` with a tokenizer that can be read. A text that the model was trained on is
        packed with its tokenizer already.
        """
        name = data.label
        stage = data_stages.STAGES["corpus"]
        identity = Identity(
            stage="corpus",
            version=stage.version,
            config=_packing_identity(_packing(data)),
            data=source_fingerprint(data, self.context.data_dir),
            tokenizer=_tokenizer_file(read, self.context.data_dir),
        )
        if model is not None and (packed := _same_text(model, identity)) is not None:
            return packed
        self.context.watch("stage", {"name": name, "stage": "corpus"})
        return self._obtain(stage, read, Inputs(name), identity)[0]

    def examples(self, data: schema.TaskData, model: Artifact | None) -> Artifact:
        """Return the examples of a task as tokens of a model's tokenizer, made now or found."""
        tokenizer = model_tokenizer(data.task, model)
        splits = read_splits(data, self.context.data_dir)
        chat = splits["train"].kind == "messages"
        template = chat_template.of(model.path / "model") if chat and model is not None else None
        stage = data_stages.EncodeStage(splits, tokenizer, template)
        config = data.model_dump(mode="json", exclude={"packing"})
        identity = Identity(
            stage="examples",
            version=data_stages.CONVERSATION_VERSION if chat else stage.version,
            config=config if template is None else {**config, "template": template.fingerprint},
            data=examples_fingerprint(splits),
            tokenizer=tokenizer.identity(tokenizer.fingerprint),
        )
        if identity.id not in self.encoded:
            self.context.watch("stage", {"name": data.task, "stage": "examples"})
            self.encoded[identity.id], _ = self._obtain(stage, data, Inputs(data.task), identity)
        return self.encoded[identity.id]

    def register_corpus(self, data: schema.Data, packed: Artifact) -> None:
        """Remember the packed corpus of a data config that was found in another way."""
        self.corpora[_packing(data).model_dump_json()] = packed

    def make(
        self, name: str, config: StageConfig, artifacts: Mapping[str, Artifact]
    ) -> StageResult:
        """Return the stage's artifact, made now or found."""
        stage = stage_of(config.stage)
        if isinstance(config, schema.TrainingStage) and config.model is None:
            source_config(config, Inputs(name, artifacts))  # what it refuses is not packed first
        corpus = self._corpus_of(config, artifacts)
        examples, texts = self._examples_of(config, artifacts), self._texts_of(config, artifacts)
        inputs = Inputs(name, artifacts, corpus, examples, texts)
        config = self._resolved(config, corpus)
        precision: Precision = "fp32"
        model: schema.Architecture | None = None
        runner = self._of_seed(config)
        if isinstance(config, schema.TrainingStage):
            config = config.model_copy(update={"seed": None})  # the identity has it anyway
            model = config.model or source_config(config, inputs)
            precision = self.context.runtime.precision(config.train.products, model.dim)
            train = config.train.model_copy(update={"precision": precision})
            config = config.model_copy(update={"train": train})
        own = stage.own_identity(config)
        identity = own or runner._identity(config, stage, inputs, precision)
        if model is not None and drops([config.model_dump(), model.model_dump()]):
            identity = replace(identity, version=identity.version + ROW_MASKS)
        self.context.watch("stage", {"name": name, "stage": config.stage, "id": identity.id})
        artifact, reused = runner._obtain(stage, config, inputs, identity)
        self.context.watch(
            "made",
            {"name": name, "id": artifact.id, "reused": reused, "seconds": artifact.facts["took"]},
        )
        return StageResult(name, config, artifact, reused, artifacts)

    def _of_seed(self, config: StageConfig) -> Runner:
        """Return the runner of a stage: one with the stage's seed, where it has its own."""
        if not isinstance(config, schema.TrainingStage) or config.seed is None:
            return self
        runtime = replace(self.context.runtime, seed=config.seed)
        return replace(self, context=replace(self.context, runtime=runtime))

    def _identity(
        self, config: StageConfig, stage: Stage[Any], inputs: Inputs, precision: Precision
    ) -> Identity:
        """Return everything that a stage's result depends on."""
        runtime, corpus = self.context.runtime, inputs.corpus
        parents = {role: artifact.id for role, artifact in inputs.artifacts.items()}
        data = stage.data_fingerprint(config, self.context.data_dir)
        parents |= {f"corpus.{role}": text.id for role, text in inputs.texts.items()}
        tokenizer = None
        if corpus is not None:
            parents["corpus"] = corpus.id
            read = corpus.identity["data"]
            data = read if data is None else digest([read, data])
            tokenizer = corpus.manifest["files"]["corpus/tokenizer.json"]["sha256"]
        elif inputs.examples is not None:
            parents["examples"] = inputs.examples.id
            data = inputs.examples.identity["data"]
            tokenizer = inputs.examples.manifest["files"]["examples/tokenizer.json"]["sha256"]
        return Identity(
            stage=config.stage,
            version=stage.version,
            config=identity_config(config),
            parents=parents,
            data=data,
            tokenizer=tokenizer,
            seed=runtime.seed,
            threads=runtime.threads,
            dtype=precision,
            device=runtime.device,
            machine=machine.processor() if config.of_machine else None,
            libraries=machine.libraries() if config.of_machine else None,
        )

    def _obtain(
        self, stage: Stage[Any], config: Strict, inputs: Inputs, identity: Identity
    ) -> tuple[Artifact, bool]:
        """Return the artifact of an identity, made now or found, and whether it was there."""
        context = self.context

        def work(draft: Draft) -> dict[str, Any]:
            facts = self._work(stage, config, inputs, draft)
            parents = dict(inputs.artifacts)
            parents |= {f"corpus.{role}": text for role, text in inputs.texts.items()}
            if inputs.corpus is not None:
                parents["corpus"] = inputs.corpus
            if inputs.examples is not None:
                parents["examples"] = inputs.examples
            card.write(draft, facts, parents)
            return facts

        context.note(identity)
        artifact, reused = context.store.obtain(identity, work, context.command, context.watch)
        if reused:
            context.meter.seconds_before += artifact.facts["took"]
            context.meter.note_earlier(artifact.facts.get("memory_used", 0))
        elif context.meter.late_now():
            limit = format_time(context.meter.limits.time or 0.0)
            context.watch("late", {"name": inputs.name, "limit": limit})
        if isinstance(config, schema.TrainingStage):
            context.meter.flops += artifact.facts["flops"]
            context.meter.note_earlier(artifact.facts.get("memory_used", 0))
        return artifact, reused

    def _work(
        self, stage: Stage[Any], config: Strict, inputs: Inputs, draft: Draft
    ) -> dict[str, Any]:
        """Do a stage's work and return its facts, with the time it took and the corpus it knows."""
        meter = self.context.meter
        trains = isinstance(config, schema.TrainingStage)
        allocator.give_back_now()  # what an earlier stage has freed is no part of this one
        meter.begin_stage()
        if trains:
            meter.observe(inputs.name, ends_itself=config.train.time is not None)
        began = time.monotonic()
        facts = dict(stage.run(config, inputs, self.context, draft))
        meter.note()
        # A resumed training knows its earlier parts.
        seconds = facts["seconds"] if trains else time.monotonic() - began
        facts["took"] = round(seconds, 3)
        if not trains:  # which knows the peak of its earlier parts too, and holds to the limit
            facts["memory_used"] = meter.stage_peak_bytes
            self._tell_of_memory(inputs.name, config)
        corpus = _corpus_id(inputs)
        if corpus is not None:
            facts.setdefault("corpus", corpus)
        return facts

    def _tell_of_memory(self, name: str, config: Strict) -> None:
        """Say so where a stage that does not train took more than the run's limit of memory."""
        meter = self.context.meter
        if not meter.passed_memory():
            return
        limit, used = meter.limits.memory or 0, meter.stage_peak_bytes
        what = config.stage if isinstance(config, StageConfig) else "packing"
        fields = {"name": name, "what": what, "limit": format_size(limit)}
        self.context.watch("large", {**fields, "used": format_size(used)})

    def _corpus_of(self, config: StageConfig, artifacts: Mapping[str, Artifact]) -> Artifact | None:
        """Return the corpus that a stage names, or the one its input was trained on."""
        data = getattr(config, "data", None)
        if isinstance(data, schema.TaskData):
            return None
        if data is not None:
            return self.corpus(data, _source_of_tokens(artifacts))
        use = config.text_of_input
        if use == "none":
            return None
        model = next(iter(artifacts.values()))
        name = model.facts.get("corpus")
        if name is not None and (path := model.path.parent / name).exists():
            packed = Artifact.open(path)
            own = _recut(packed, model)
            return packed if own is None else self.corpus(own, model)
        if use == "optional":
            return None
        gone = "came without a corpus"
        if name is not None:
            gone = f"was trained on {name}, which is not in {model.path.parent}"
        raise RequestError(f"{model.id} {gone}; name a text with --data")

    def _texts_of(
        self, config: StageConfig, artifacts: Mapping[str, Artifact]
    ) -> dict[str, Artifact]:
        """Return the text of a stage in the tokens of inputs that have their own tokenizers."""
        data = getattr(config, "data", None)
        if not isinstance(data, schema.Data):
            return {}
        own = data.model_copy(update={"tokenizer": schema.ModelTokenizer()})
        return {role: self.corpus(own, artifacts[role]) for role in config.own_texts()}

    def _examples_of(
        self, config: StageConfig, artifacts: Mapping[str, Artifact]
    ) -> Artifact | None:
        """Return the examples of the task that a stage trains on; None for one of text."""
        data = getattr(config, "data", None)
        if not isinstance(data, schema.TaskData):
            return None
        return self.examples(data, _source_of_tokens(artifacts))

    def _resolved(self, config: StageConfig, corpus: Artifact | None) -> StageConfig:
        """Write out what a model config takes from the corpus: vocabulary and context."""
        if not isinstance(config, schema.TrainingStage) or config.model is None or corpus is None:
            return config
        assert isinstance(config.data, schema.Data)
        entries = corpus.facts["vocab_size"]
        model = load.resolved(config.model, "stages: model", entries, config.data.context)
        if (model.vocab_size or 0) < entries:
            raise RequestError(
                f"model.vocab_size: {model.vocab_size}, but the tokenizer of "
                f"{config.data.label} has"
                f" {entries} entries; leave vocab_size out and it follows the tokenizer"
            )
        return config.model_copy(update={"model": model})


def _source_of_tokens(artifacts: Mapping[str, Artifact]) -> Artifact | None:
    """Return the artifact whose tokenizer a stage can take: its input's, or its teacher's."""
    return next((artifacts[field] for field in sources_of_tokens(artifacts)), None)


def _corpus_id(inputs: Inputs) -> str | None:
    """Return the id of the corpus that a stage read, or of the one that all its inputs know."""
    if inputs.corpus is not None:
        return inputs.corpus.id
    facts = [artifact.facts for artifact in inputs.artifacts.values()]
    ids = {of_input["corpus"] for of_input in facts if "corpus" in of_input}
    return ids.pop() if len(ids) == 1 else None


def source_config(config: schema.TrainingStage, inputs: Inputs) -> schema.Architecture:
    """Return the config of the model that a stage trains further.

    Raises RequestError for one that cannot be trained, not by the stage's method, or not on rows
    as the stage asks for.
    """
    where = f"stages.{inputs.name}"
    architecture = tunable_config(inputs.model("input"), config.tuning(), where)
    check_data(config, architecture, where, "input")
    return architecture


def _tokenizer_file(data: schema.Data, data_dir: Path | None) -> str | None:
    """Return the checksum of a tokenizer that is a file: its path does not tell when it changes."""
    if not isinstance(data.tokenizer, schema.FileTokenizer):
        return None
    path = tokenizer_path(data.tokenizer, data_dir)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.exists() and not file.is_file():
            raise RequestError(
                f"data.tokenizer.path: {file} is not a file; "
                "name a tokenizer.json or a folder that has one"
            )
        content = sha256(file)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"data.tokenizer.path: {file} cannot be read ({reason(error)})"
        ) from error
    if path.is_dir():
        try:
            tokenizer_files.check_folder(path)
        except FlyweightError as error:
            raise RequestError(f"data.tokenizer.path: {error}") from error
    return Tokenizer.load(file).identity(content)


def model_tokenizer(task: str, model: Artifact | None) -> Tokenizer:
    """Return the tokenizer of the model that learns a task.

    Raises RequestError where it has none.
    """
    file = None if model is None else model.path / "model" / "tokenizer.json"
    if file is None or not file.is_file():
        what = "there is no model here" if model is None else f"{model.id} has no tokenizer"
        raise RequestError(f"data.task: {what}, so nothing can cut {task} into tokens")
    return Tokenizer.load(file)


def _own_tokenizer(data: schema.Data, model: Artifact | None) -> tuple[schema.Data, schema.Data]:
    """Return a data config with the checksum of a model's tokenizer, and one with its file.

    The first tells texts apart, wherever the model is. Raises RequestError for a model without a
    tokenizer.
    """
    if model is None:
        raise RequestError(
            "data.tokenizer: kind model is the tokenizer of a stage's input or teacher, and there "
            "is none here; choose another kind"
        )
    file = model.path / "model" / "tokenizer.json"
    if not file.is_file():
        raise RequestError(
            f"data.tokenizer: {model.id} has no tokenizer, so it cannot read {data.label}"
        )
    own = schema.ModelTokenizer(sha256=sha256(file))
    of_file = schema.FileTokenizer(path=str(file))
    return data.model_copy(update={"tokenizer": own}), data.model_copy(
        update={"tokenizer": of_file}
    )


def _recut(packed: Artifact, model: Artifact) -> schema.Data | None:
    """Return how to pack a model's text again where its tokenizer lost entries since; else None."""
    theirs = packed.manifest["files"].get("corpus/tokenizer.json")
    mine = model.manifest["files"].get("model/tokenizer.json")
    if theirs is None or mine is None or theirs["sha256"] == mine["sha256"]:
        return None
    fields = {**packed.identity["config"], "tokenizer": {"kind": "model"}, "context": 1}
    return schema.Data.model_validate(fields, context={"resolved": True})


def _same_text(model: Artifact, identity: Identity) -> Artifact | None:
    """Return the corpus that a model was trained on, if it is the text of `identity`.

    The model's own tokenizer has to have cut it.
    """
    own = identity.config["tokenizer"]
    folder = model.path.parent / str(model.facts.get("corpus"))
    if own["kind"] != "model" or not (folder / "manifest.json").is_file():
        return None
    packed = Artifact.open(folder)
    other = {**packed.identity["config"], "tokenizer": own}
    if packed.identity["data"] != identity.data or other != identity.config:
        return None
    files = packed.manifest["files"]
    same = files["corpus/tokenizer.json"]["sha256"] == own["sha256"]
    return packed if same else None


def _packing(data: schema.Data) -> schema.Data:
    """Return what packing depends on: windows are cut from the shards later."""
    return data.packed()


def _packing_identity(packing: schema.Data) -> dict[str, object]:
    """Return what a corpus' id tells of its config.

    A field of later days only where it is set, so that ids stay.
    """
    later = {"column"} if packing.column is None else set()
    fields = packing.model_dump(mode="json", exclude={"context", *later})
    for name in NOT_PACKED:
        (fields.get("stream") or {}).pop(name, None)
    return fields


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
    measured = {name: _measure(runner, recipe, stages[name]) for name in finished}
    floors = _floors(runner, measured)
    tuned = _tuned(runner, recipe, [stages[name] for name in finished])
    seconds = context.meter.seconds()
    return FinishedRecipe(recipe, stages, measured, floors, seconds, stopped, tuned)


def _tuned(
    runner: Runner, recipe: schema.Recipe, results: Sequence[StageResult]
) -> dict[str, BeforeAfter]:
    """Measure what is fine-tuned among the compared models before and after, by their names."""
    asked = before_after.Asked(
        evaluate="evaluate" in recipe.report.measure, lm_eval=recipe.report.lm_eval
    )
    if not asked.evaluate and asked.lm_eval is None:
        return {}
    return {
        result.name: before_after.measure(
            runner.make,
            result.name,
            result.config,
            result.inputs["input"],
            result.artifact,
            runner.context.data_dir,
            asked,
        )
        for result in results
        if isinstance(result.config, schema.Finetune)
    }


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


def _measure(runner: Runner, recipe: schema.Recipe, result: StageResult) -> dict[str, StageResult]:
    """Measure one compared model in every way that the report asks for."""
    stages: dict[str, StageConfig] = {}
    for kind in recipe.report.measure:
        config = STAGE_CONFIGS[kind]
        if config is schema.TrainingMemory and not isinstance(result.config, schema.TrainingStage):
            continue  # it was made without training
        if kind == "evaluate" and _textless(recipe, result):
            runner.context.watch("unscored", {"model": result.name})
            continue
        fields: dict[str, Any] = {"stage": kind, "input": result.name}
        if recipe.report.data is not None and "data" in config.model_fields:
            fields["data"] = recipe.report.data
        if "metrics" in config.model_fields:
            fields["metrics"] = recipe.report.metrics
        if config is schema.Evaluate:
            fields["batch"] = _windows_at_once(runner, recipe, result)
        stages[kind] = config(**fields)
    if recipe.report.prompts:
        new = recipe.report.sample_tokens
        stages["sample"] = schema.Sample(
            stage="sample", input=result.name, prompts=recipe.report.prompts, new_tokens=new
        )
    for place, task in enumerate(recipe.report.scored()):
        stages[f"{SCORED}{place}"] = task.stage(result.name)
    if recipe.report.lm_eval is not None:
        stages["lm_eval"] = recipe.report.lm_eval.stage(result.name)
    return {
        kind: runner.make(result.name, config, {"input": result.artifact})
        for kind, config in stages.items()
    }


def _windows_at_once(runner: Runner, recipe: schema.Recipe, result: StageResult) -> int:
    """Return how many windows of a model an evaluation reads at once within `budget.memory`."""
    config = load_any.config(result.artifact.path / "model")
    if not isinstance(config, schema.ARCHITECTURES):
        return evaluating.WINDOWS_AT_ONCE
    device = runner.context.runtime.device
    return evaluating.windows_at_once(config, recipe.budget.memory, device)


def _textless(recipe: schema.Recipe, result: StageResult) -> bool:
    """Return whether a model of a recipe with tasks has no text here to be evaluated on."""
    data = [getattr(stage, "data", None) for stage in recipe.stages.values()]
    tasks = any(isinstance(each, schema.TaskData) for each in data)
    text = result.artifact.path.parent / str(result.artifact.facts.get("corpus"))
    return tasks and recipe.report.data is None and not (text / "manifest.json").is_file()


def _floors(
    runner: Runner, measured: Mapping[str, Mapping[str, StageResult]]
) -> dict[str, StageResult]:
    """Return the n-gram floors of every corpus that was evaluated on, by the corpus' id."""
    floors: dict[str, StageResult] = {}
    for evaluation in (
        results["evaluate"].artifact for results in measured.values() if "evaluate" in results
    ):
        name = evaluation.facts["corpus"]
        if name not in floors:
            packed = Artifact.open(runner.context.store.root / name)
            config = {**packed.identity["config"], "context": evaluation.metrics()["window"]}
            data = schema.Data.model_validate(config, context={"resolved": True})
            runner.register_corpus(data, packed)
            floors[name] = runner.make("floors", schema.Floors(stage="floors", data=data), {})
    return floors


def link_stages(folder: Path, stages: Mapping[str, StageResult]) -> None:
    """Make `<runs>/<recipe>/<stage>` point to the stage's artifact."""
    with disk_errors(folder):
        for name, result in stages.items():
            fresh = folder / f".{name}{PARTIAL}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(Path("..") / result.artifact.path.name, target_is_directory=True)
            os.replace(fresh, folder / name)
