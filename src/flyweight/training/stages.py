"""The stages that make models: pretrain and distill, two objectives for one loop, and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.reading import check_reads
from flyweight.config import load, schema
from flyweight.config.metrics import metric_kind, scored
from flyweight.core.files import copy_folder, disk_errors, write_json
from flyweight.data.corpus import Corpus
from flyweight.data.tasks import read_examples
from flyweight.data.told import Told
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import likelihood, tasks as task_scoring
from flyweight.model import folder
from flyweight.model.build import Model, build
from flyweight.model.decoder import Decoder
from flyweight.model.from_teacher import take_from_teacher
from flyweight.spec.matching import part_faults
from flyweight.spec.teacher_start import teacher_layers
from flyweight.store.artifact import Artifact, Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage
from flyweight.training import training_cost
from flyweight.training.finetune import FinetuneStage
from flyweight.training.mix import MixStage
from flyweight.training.model_training import train_model as train_model, vocabulary
from flyweight.training.objectives import DistillationObjective, NextTokenObjective
from flyweight.training.snapshots import SnapshotStage
from flyweight.training.teach import TeachStage


class PretrainStage(Stage[schema.Pretrain]):
    """Next-token training, from nothing or from `input`'s weights."""

    version = 3

    def run(
        self, config: schema.Pretrain, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Train and return the facts."""
        model = _starting_model(config, inputs, context)
        objective = NextTokenObjective(schema.NextToken(), vocabulary(inputs))
        return train_model(config, model, objective, None, inputs, context, draft)


class DistillStage(Stage[schema.Distill]):
    """Training against a teacher's next-token distribution on the same windows.

    A teacher that has told it before does not run.
    """

    version = 3

    def run(
        self, config: schema.Distill, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Train and return the facts."""
        where = f"stages.{inputs.name}"
        model = _starting_model(config, inputs, context)
        teacher: load_any.AnyModel | None = None
        if config.told is None or config.start != "random":
            teacher = load_any.load(inputs.model("teacher"), context.runtime.device)
            check_reads(teacher.config, "teacher", inputs, config.data.context)
            teacher.eval().requires_grad_(False)
            _check_parts(config, model, teacher, where)
        taken = _taken(config, model, teacher)
        if config.told is not None:
            teacher = None
            taken |= _told_facts(config, inputs, where)
        objective = DistillationObjective(config.objective, teacher, vocabulary(inputs))
        facts = train_model(config, model, objective, teacher, inputs, context, draft)
        return {**facts, **taken}


def _told_facts(config: schema.Distill, inputs: Inputs, where: str) -> dict[str, Any]:
    """Return what a record tells of itself; raise RequestError for one that does not fit.

    It may be of another softmax than the objective's, or across tokenizers without being asked to.
    """
    record = inputs.artifacts["told"]
    told = Told(record.path / "told").meta
    if told.temperature != config.objective.temperature:
        raise RequestError(
            f"{where}.told: the record is of temperature {told.temperature:g}, and "
            f"objective.temperature is {config.objective.temperature:g}; make them equal"
        )
    if told.across != (config.across is not None):
        remedy = "add across: tokenizers" if told.across else "leave across out"
        kind = "a teacher with another tokenizer" if told.across else "this tokenizer's own teacher"
        raise RequestError(f"{where}.told: the record is of {kind}; {remedy}")
    names = ("aligned", "groups", "kept_mass") if told.across else ()
    return {name: record.facts[name] for name in names}


def _check_parts(
    config: schema.Distill, model: Model, teacher: load_any.AnyModel, where: str
) -> None:
    """Raise RequestError where parts of student and teacher do not fit as they are asked to."""
    known = teacher.config if isinstance(teacher, Decoder) else None
    if faults := list(part_faults(config, model.config, known)):
        raise RequestError("\n".join(f"{where}.{fault}" for fault in faults))


def _taken(
    config: schema.Distill, model: Model, teacher: load_any.AnyModel | None
) -> dict[str, dict[str, Any]]:
    """Let a student begin with parts of its teacher where it is to; return which as a fact."""
    if config.start == "random":
        return {}
    assert isinstance(model, Decoder) and isinstance(teacher, Decoder)
    layers = teacher_layers(config.start, model.config, teacher.config)
    taken = take_from_teacher(model, teacher, layers, config.start.width)
    numbers = sum(model.state_dict()[name].numel() for name in taken.copied)
    return {"started_from": {"layers": list(layers), "numbers": numbers, "new": list(taken.new)}}


def _starting_model(config: schema.NewOrExisting, inputs: Inputs, context: Context) -> Model:
    """Return the new model that a stage trains, or that of its input."""
    if config.model is not None:
        return build(config.model, seed=context.runtime.seed).to(context.runtime.device)
    where = f"stages.{inputs.name}.input"
    load_any.trainable_config(inputs.model("input"), where)
    model = load_any.decoder(inputs.model("input"), context.runtime.device, where)
    check_reads(model.config, "input", inputs, config.data.context)
    return model


def _best_validations(name: str, candidates: Mapping[str, Artifact]) -> dict[str, float]:
    """Return the best validation NLL of each training; raise RequestError where there is none."""
    best = {candidate: artifact.facts.get("best_nll") for candidate, artifact in candidates.items()}
    for candidate, value in best.items():
        if value is None:
            raise RequestError(
                f"stages.{name}.among: {candidate} has no validation result to be chosen by"
            )
    return {candidate: value for candidate, value in best.items() if value is not None}


def _measured(
    metric: str,
    candidates: Mapping[str, Artifact],
    inputs: Inputs,
    context: Context,
    draft: Draft,
) -> dict[str, float]:
    """Return a metric of every candidate on the whole validation split, each in its own windows."""
    validation = Corpus.open(inputs.text(), verify=False).split("validation")
    values: dict[str, float] = {}
    for name, artifact in candidates.items():
        draft.events.watch("scoring", {"what": name, "done": 0.0})
        model = load_any.load(artifact.path / "model", context.runtime.device)
        result = likelihood.evaluate(
            model,
            validation,
            window=load_any.window(model.config),
            device=context.runtime.device,
            metrics=scored((metric,)),
        )
        measured = result.likelihood.metric(metric)
        if measured is None:
            raise RequestError(
                f"stages.{inputs.name}.by: {metric} cannot be measured on this text; choose another"
            )
        values[name] = measured.value
    return values


def _on_task(
    score: schema.Score,
    by: str,
    candidates: Mapping[str, Artifact],
    context: Context,
    draft: Draft,
) -> dict[str, float]:
    """Return a metric of every candidate's answers to a task."""
    examples = read_examples(score.task, score.split, context.data_dir, score.bad_rows)
    if task_scoring.task_fingerprint(examples.rows) != draft.identity.data:
        raise FlyweightError(f"{score.task}: its files have changed meanwhile; start again")
    values: dict[str, float] = {}
    for name, artifact in candidates.items():
        what = f"{name} on {score.task}"
        scored_model = task_scoring.score_model(
            artifact.path / "model",
            score,
            context.data_dir,
            context.runtime.device,
            progress=lambda done, what=what: draft.events.watch(
                "scoring", {"what": what, "done": done}
            ),
            examples=examples,
        )
        values[name] = scored_model.record.metrics[by].value
    return values


class SelectStage(Stage[schema.Select]):
    """The best of several models of one corpus, by a metric of validation text or of a task."""

    version = 1

    def data_fingerprint(self, config: schema.Select, data_dir: Path | None) -> str | None:
        """Return the checksum of the task's rows, where a task decides."""
        score = config.score
        if score is None:
            return None
        rows = read_examples(score.task, score.split, data_dir, score.bad_rows).rows
        return task_scoring.task_fingerprint(rows)

    def run(
        self, config: schema.Select, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Copy the best model and return its facts; `chosen` is its name."""
        candidates = dict(zip(config.among, inputs.artifacts.values(), strict=True))
        corpora = {artifact.facts.get("corpus") for artifact in candidates.values()}
        if config.score is None and len(corpora) > 1:
            raise RequestError(
                f"stages.{inputs.name}.among: these models were validated on different corpora"
            )
        if config.by == "nll":
            validation = _best_validations(inputs.name, candidates)
        elif config.score is not None:
            validation = _on_task(config.score, config.by, candidates, context, draft)
        else:
            validation = _measured(config.by, candidates, inputs, context, draft)
        sign = metric_kind(config.by).sign
        chosen = min(candidates, key=lambda name: sign * validation[name])
        with disk_errors(draft.path):
            copy_folder(candidates[chosen].path / "model", draft.new_folder("model"))
        draft.events.emit(
            "selected",
            chosen=chosen,
            validation=validation,
        )
        return {**candidates[chosen].facts, "chosen": chosen}

    def plan(self, config: schema.Select, inputs: PlannedInputs) -> Outline:
        """Return the candidates' model where they are all alike.

        Which of them is chosen is not known before they are trained.
        """
        candidates = list(inputs.models.values())
        alike = len(candidates) == len(config.among) and len(set(map(repr, candidates))) == 1
        return Outline(candidates[0] if alike else None)


class InitialiseStage(Stage[schema.Initialise]):
    """A model with random weights: what bench and audit take when they are given a config."""

    version = 1

    def run(
        self, config: schema.Initialise, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the untrained `model/`."""
        with disk_errors(draft.path):
            folder.save(build(config.model, seed=context.runtime.seed), draft.new_folder("model"))
        return {}

    def plan(self, config: schema.Initialise, inputs: PlannedInputs) -> Outline:
        """Return the model that the config describes."""
        return Outline(load.resolved(config.model, "stages: model"))


class TrainingMemoryStage(Stage[schema.TrainingMemory]):
    """What a training costs: its first steps once more, in a fresh process."""

    version = 1

    def run(
        self, config: schema.TrainingMemory, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Train in a child process of its own and write the metrics."""
        draft.events.watch("scoring", {"what": f"memory of training {inputs.name}", "done": 0.0})
        cost = training_cost.measure(
            inputs.artifacts["input"], config.steps, context.runtime, context.data_dir
        )
        write_json(draft.path / "metrics.json", cost.model_dump())
        return {}


STAGES: dict[str, Stage[Any]] = {
    "pretrain": PretrainStage(),
    "finetune": FinetuneStage(),
    "distill": DistillStage(),
    "teach": TeachStage(),
    "select": SelectStage(),
    "snapshot": SnapshotStage(),
    "init": InitialiseStage(),
    "mix": MixStage(),
    "memory": TrainingMemoryStage(),
}
