"""The stages that train: pretrain and distill, two objectives for one loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.load_any import AnyModel
from flyweight.config import schema
from flyweight.config.metrics import metric_kind, scored
from flyweight.core.events import Events
from flyweight.core.files import copy_file, copy_folder, disk_errors
from flyweight.data.corpus import Corpus
from flyweight.data.tokenizer import Tokenizer, named_tokens
from flyweight.data.windows import Windows
from flyweight.errors import RequestError
from flyweight.evaluation import likelihood
from flyweight.model import folder
from flyweight.model.build import Model, build
from flyweight.store.artifact import Artifact, Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage
from flyweight.training.limits import Limits
from flyweight.training.mix import Mix
from flyweight.training.objectives import Distillation, NextToken, Objective
from flyweight.training.step_cost import StepCost
from flyweight.training.trackers import tracked
from flyweight.training.trainer import Trainer


def _run(
    config: schema.TrainingStage,
    model: Model,
    objective: Objective,
    teacher: AnyModel | None,
    inputs: Inputs,
    context: Context,
    draft: Draft,
) -> dict[str, Any]:
    """Train `model` by `objective`, write `model/` and return the facts.

    Their totals hold what the inputs had cost as well.
    """
    assert inputs.corpus is not None
    runtime, train = context.runtime, config.train
    precision = runtime.precision(train.precision, model.config.dim)
    # Opening the artifact has just compared every checksum.
    corpus = Corpus.open(inputs.text(), verify=False)
    context_length, documents = config.data.context, config.data.documents
    windows = Windows(corpus.split("train"), context_length, train.batch, runtime.seed, documents)
    if documents == "isolated":
        load_any.require_isolation(model, f"stages.{inputs.name}.data.documents")
        load_any.require_isolation(teacher, f"stages.{inputs.name}.data.documents: the teacher")
    teacher_flops = 0
    if teacher is not None:
        teacher_flops = load_any.forward_flops(teacher, context_length)
    cost = StepCost.of(
        model.config, train, context_length, teacher_flops, fresh=config.model is not None
    )

    def validate(tokens: int) -> float:
        split = corpus.split("validation")
        return likelihood.quick(
            model,
            split,
            window=config.data.context,
            tokens=tokens,
            batch=train.batch,
            device=runtime.device,
            precision=precision,
            isolated=documents == "isolated",
        )

    watch = tracked(train.trackers, inputs.name, draft.identity.id, draft.events.watch)
    trainer = Trainer(
        model=model,
        objective=objective,
        source=windows,
        validate=validate,
        config=train,
        limits=Limits.of(train, train.batch * config.data.context, cost, f"stages.{inputs.name}"),
        cost=cost,
        runtime=runtime,
        precision=precision,
        draft=replace(draft, events=Events(draft.events.path, watch)),
        meter=context.meter,
        name=inputs.name,
    )
    facts = trainer.train()
    with disk_errors(draft.path):
        folder.save(model, draft.new_folder("model"))
        for file in inputs.tokenizer_files():
            copy_file(file, draft.path / "model" / file.name)
    if documents == "isolated":
        facts["documents"] = documents
    return {
        **facts,
        "total_flops": facts["flops"] + inputs.spent("total_flops"),
        "total_seconds": facts["seconds"] + inputs.spent("total_seconds"),
    }


def _vocabulary(inputs: Inputs) -> int:
    """Return the number of tokens that the corpus knows; a head may have more rows than that."""
    assert inputs.corpus is not None
    return inputs.corpus.facts["vocab_size"]


def _fits(model: AnyModel, what: str, inputs: Inputs, context: int) -> None:
    """Raise RequestError where a finished model cannot read this stage's windows."""
    assert inputs.corpus is not None
    mine, theirs = inputs.text() / "tokenizer.json", inputs.model(what) / "tokenizer.json"
    if mine.read_bytes() != theirs.read_bytes():
        raise RequestError(
            f"stages.{inputs.name}.{what}: the {what} and the corpus use different tokenizers; "
            f"give this stage data.tokenizer={{kind: file, path: {theirs}}}"
        )
    rows = model.config.vocab_size or 0
    if rowless := Tokenizer.load(theirs).rowless(rows):
        raise RequestError(
            f"stages.{inputs.name}.{what}: the {what} has {rows} rows and none for "
            f"{named_tokens(rowless)} of its tokenizer; take such tokens out of {theirs}, or use "
            f"another {what}"
        )
    if model.config.context is not None and model.config.context < context:
        raise RequestError(
            f"stages.{inputs.name}.data.context: {context} is longer than the "
            f"{model.config.context} tokens that the {what} reads at once"
        )


class Pretrain(Stage[schema.Pretrain]):
    """Next-token training, from nothing or from `input`'s weights."""

    version = 3

    def run(
        self, config: schema.Pretrain, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Train and return the facts."""
        if config.model is not None:
            model = build(config.model, seed=context.runtime.seed).to(context.runtime.device)
        else:
            load_any.trainable_config(inputs.model("input"), f"stages.{inputs.name}.input")
            model = load_any.decoder(
                inputs.model("input"), context.runtime.device, f"stages.{inputs.name}.input"
            )
            _fits(model, "input", inputs, config.data.context)
        objective = NextToken(schema.NextToken(), _vocabulary(inputs))
        return _run(config, model, objective, None, inputs, context, draft)


class Distill(Stage[schema.Distill]):
    """Training against a teacher's next-token distribution on the same windows."""

    version = 3

    def run(
        self, config: schema.Distill, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Train and return the facts."""
        teacher = load_any.load(inputs.model("teacher"), context.runtime.device)
        _fits(teacher, "teacher", inputs, config.data.context)
        teacher.eval().requires_grad_(False)
        model = build(config.model, seed=context.runtime.seed).to(context.runtime.device)
        objective = Distillation(config.objective, teacher, _vocabulary(inputs))
        return _run(config, model, objective, teacher, inputs, context, draft)


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
        measured = result.metric(metric)
        if measured is None:
            raise RequestError(
                f"stages.{inputs.name}.by: {metric} cannot be measured on this text; choose another"
            )
        values[name] = measured.value
    return values


class Select(Stage[schema.Select]):
    """The best of several models of one corpus by a metric of validation text."""

    version = 1

    def run(
        self, config: schema.Select, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Copy the best model and return its facts; `chosen` is its name."""
        candidates = dict(zip(config.among, inputs.artifacts.values(), strict=True))
        if len({artifact.facts.get("corpus") for artifact in candidates.values()}) > 1:
            raise RequestError(
                f"stages.{inputs.name}.among: these models were validated on different corpora"
            )
        if config.by == "nll":
            validation = _best_validations(inputs.name, candidates)
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


class Initialise(Stage[schema.Initialise]):
    """A model with random weights: what bench and audit take when they are given a config."""

    version = 1

    def run(
        self, config: schema.Initialise, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the untrained `model/`."""
        with disk_errors(draft.path):
            folder.save(build(config.model, seed=context.runtime.seed), draft.new_folder("model"))
        return {}


STAGES: dict[str, Stage[Any]] = {
    "pretrain": Pretrain(),
    "distill": Distill(),
    "select": Select(),
    "init": Initialise(),
    "mix": Mix(),
}
