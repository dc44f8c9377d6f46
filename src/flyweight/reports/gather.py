"""From a finished recipe's artifacts to its summary: it holds what the artifacts hold."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyweight.config import load, schema
from flyweight.config.pruning import SparsitySweep
from flyweight.config.schema import StageConfig
from flyweight.config.units import MOST, format_percent
from flyweight.core.events import read_events
from flyweight.core.files import read_json
from flyweight.data.corpus import Corpus
from flyweight.data.document import text_label
from flyweight.errors import FlyweightError
from flyweight.planning.memory import PlannedMemory
from flyweight.records import run_summary
from flyweight.records.audit import AuditResult
from flyweight.records.bench import BenchResult
from flyweight.records.floors import NgramFloors
from flyweight.records.likelihood import Evaluation, Likelihood
from flyweight.records.lm_eval import LmEvalScores
from flyweight.records.profile import ProfileResult
from flyweight.records.sample import samples_of
from flyweight.records.scores import SCORED, TaskScores
from flyweight.records.sweep import Pruning
from flyweight.records.training_cost import TrainingCost
from flyweight.records.training_memory import TrainingMemory
from flyweight.records.verification import Verification
from flyweight.reports.findings.distillation import SHORT
from flyweight.spec import flops
from flyweight.store.artifact import Artifact
from flyweight.store.budget import Meter

ANSWERS_SHOWN = 5
"""Answers of each model to a task that a summary keeps."""


@dataclass(frozen=True)
class ModelArtifacts:
    """A compared model as its artifacts: the model's own, and its measurements by kind."""

    name: str
    config: StageConfig
    artifact: Artifact
    measured: Mapping[str, Artifact]
    chosen: Mapping[str, str] = field(default_factory=dict)
    """What every `select` stage of the recipe chose: models made from it were made from that."""


def models(
    recipe: schema.Recipe, sources: Sequence[ModelArtifacts]
) -> tuple[run_summary.ModelSummary, ...]:
    """Return the compared models in the recipe's order."""
    names = [source.name for source in sources]
    return tuple(_model(source, names) for source in sources)


def _model(source: ModelArtifacts, names: Sequence[str]) -> run_summary.ModelSummary:
    facts, folder = source.artifact.facts, source.artifact.path / "model"
    config = load.model_config(read_json(folder / "config.json"), str(folder))
    counts = flops.parameters(config)
    references = source.config.dependencies()
    measured = {kind: artifact.metrics() for kind, artifact in source.measured.items()}
    training = None
    cost = TrainingCost.from_metrics(measured["memory"]) if "memory" in measured else None
    if "steps" in facts:
        training = _training(source.config, source.artifact, cost)
    bench = measured.get("bench")
    return run_summary.ModelSummary(
        name=source.name,
        id=source.artifact.id,
        stage=source.artifact.stage,
        measured={kind: artifact.id for kind, artifact in source.measured.items()},
        role=_role(source.config, facts),
        input=_known(
            source.chosen.get(references.get("input", ""), references.get("input")), names
        ),
        teacher=_known(references.get("teacher"), names),
        shuffled=isinstance(source.config, schema.Distill) and source.config.objective.shuffled,
        config_line=config_line(config),
        parameters=run_summary.ParameterCount(total=counts.total, unique=counts.unique),
        disk_bytes=sum(
            e["bytes"]
            for name, e in source.artifact.manifest["files"].items()
            if name.startswith("model/")
        ),
        training=training,
        total_flops=None if training else facts.get("total_flops") or None,
        total_seconds=None if training else facts.get("total_seconds") or None,
        evaluate=evaluation(source.measured.get("evaluate")),
        bench=None if bench is None else BenchResult.from_metrics(bench),
        verification=Verification.from_metrics(measured["verify"])
        if "verify" in measured
        else None,
        audit=None if "audit" not in measured else AuditResult.from_metrics(measured["audit"]),
        curve=training_curve(source.artifact.path / "events.jsonl") if training else None,
        sparsity=facts.get("sparsity"),
        adapter_sparsity=facts.get("adapter_sparsity"),
        samples=samples_of(measured["sample"]) if "sample" in measured else (),
        scores=tuple(_scores(artifact) for artifact in on_tasks(source).values()),
        lm_eval=LmEvalScores.from_metrics(measured["lm_eval"]) if "lm_eval" in measured else None,
    )


SPENT = ("steps", "tokens", "seconds", "total_seconds", "flops", "total_flops", "stopped_by")
"""Facts of a training that say what it cost."""


def _training(
    config: StageConfig, artifact: Artifact, cost: TrainingCost | None = None
) -> run_summary.Training:
    """Return what a training cost; `cost` is that of its first steps in a fresh process."""
    train = getattr(config, "train", None)
    return run_summary.Training(
        **{key: artifact.facts[key] for key in SPENT},
        same_as=train.same_as if train else None,
        peak_bytes=cost.peak_bytes if cost else None,
        seconds_per_step=cost.seconds_per_step if cost else None,
        pieces=artifact.facts.get("accumulate_used"),
        asked_pieces=_asked_pieces(artifact),
    )


def _role(config: StageConfig, facts: Mapping[str, object]) -> str:
    """Return what a model is in its recipe, in a few words.

    For a control that stopped early that is also the share of its budget that it used.
    """
    if role := config.role():
        return role
    train = getattr(config, "train", None)
    if train is None or train.same_as is None:
        return ""
    quantity = train.same_as.of.replace("_", " ").replace("flops", "FLOPs")
    due = train.tokens or train.flops or train.time
    share = facts[train.same_as.of.removeprefix("total_")] / due if due else 1.0
    return (
        f"alone, {quantity if share >= SHORT else f'{format_percent(share)} of the {quantity}'} of "
        f"{train.same_as.stage}"
    )


@dataclass(frozen=True)
class MadeStage:
    """A stage of a recipe as it was made: its config, its artifact, whether it was there."""

    name: str
    config: StageConfig
    artifact: Artifact
    reused: bool


def stage(
    made: MadeStage,
    planned: PlannedMemory | None = None,
    held: bool = False,
    in_full: bool = False,
) -> run_summary.StageSummary:
    """Return a stage with what it measured itself; `planned` and `held` are those of `memory`.

    `in_full`: a model is told with its parameters, and a training with its curve.
    """
    artifact = made.artifact
    kind = artifact.stage
    return run_summary.StageSummary(
        name=made.name,
        id=artifact.id,
        stage=kind,
        seconds=artifact.facts["took"],
        reused=made.reused,
        input=made.config.dependencies().get("input"),
        evaluate=evaluation(artifact),
        bench=BenchResult.from_metrics(artifact.metrics()) if kind == "bench" else None,
        profile=ProfileResult.from_metrics(artifact.metrics()) if kind == "profile" else None,
        scores=_scores(artifact) if kind == "score" else None,
        pruning=_pruning(made.config, artifact),
        parameters=_parameters(artifact.path / "model") if in_full else None,
        trained=_trained(made) if in_full else None,
        memory=memory(planned, artifact, held),
    )


def _parameters(folder: Path) -> run_summary.ParameterCount | None:
    """Return a model's parameters; None where there is no model, or one of another library."""
    from flyweight.checkpoints import load_any  # needs torch, which a page otherwise does not

    if not folder.is_dir() or not isinstance(
        config := load_any.config(folder), schema.ARCHITECTURES
    ):
        return None
    counts = flops.parameters(config)
    return run_summary.ParameterCount(total=counts.total, unique=counts.unique)


def _trained(made: MadeStage) -> run_summary.StageTraining | None:
    """Return a training's cost and curve; None for a stage that does not train."""
    if not isinstance(made.config, schema.TrainingStage):
        return None
    return run_summary.StageTraining(
        training=_training(made.config, made.artifact),
        curve=training_curve(made.artifact.path / "events.jsonl"),
    )


def _pruning(config: StageConfig, artifact: Artifact) -> Pruning | None:
    """Return the zeros of a pruned model; None for a stage that does not prune."""
    if not isinstance(config, schema.Prune):
        return None
    swept = config.sparsity
    limit = swept.within.perplexity if isinstance(swept, SparsitySweep) else None
    return Pruning.from_facts(artifact.facts, limit)


def evaluation(artifact: Artifact | None) -> Evaluation | None:
    """Return an evaluation's numbers, or None for any other artifact."""
    if artifact is None or artifact.stage != "evaluate":
        return None
    likelihood = Likelihood.from_metrics(artifact.metrics())
    return Evaluation.on(artifact.facts["corpus_fingerprint"], likelihood)


def memory(planned: PlannedMemory | None, artifact: Artifact, held: bool) -> TrainingMemory | None:
    """Return the memory of a training, planned and used; None for a stage that is not planned.

    `held`: freed memory goes back to the system at once in this run.
    """
    if planned is None:
        return None
    return TrainingMemory(
        planned=planned.total,
        used=artifact.facts.get("memory_used"),
        method=planned.method,
        held=held,
        asked_pieces=_asked_pieces(artifact),
        pieces=artifact.facts.get("accumulate_used"),
    )


def _asked_pieces(artifact: Artifact) -> int:
    """Return in how many micro-batches a step of a training was asked for."""
    return artifact.identity["config"].get("train", {}).get("accumulate", 1)


def _known(name: str | None, names: Sequence[str]) -> str | None:
    return name if name in names else None


def config_line(config: schema.Architecture) -> str:
    """Return a model's shape in one line: `4 x 128, 4 heads, swiglu 352, tied`."""
    if not isinstance(config, schema.ModelConfig):
        return _baseline_line(config)
    heads = f"{config.attention.heads} head{'s' * (config.attention.heads != 1)}"
    if config.attention.kv_heads != config.attention.heads:
        heads += f" / {config.attention.kv_heads} kv"
    depth = f"{config.layers} x {config.dim}"
    if config.sharing.kind != "none":
        depth += f" ({config.sharing.kind} {config.sharing.times})"
    if isinstance(config.thinking, schema.Deep):
        depth += f", thinking {config.thinking.passes}"
    parts = [depth, heads, f"{config.mlp.kind} {config.mlp.hidden}"]
    if config.blocks:
        parts.append(f"layers {', '.join(config.blocks)} differ")
    if config.skips:
        parts.append(f"skips {' and '.join(config.skips)}")
    if config.attention.value_residual:
        parts.append("value residual")
    if config.attention.gate:
        parts.append("gated heads")
    parts.append("tied" if config.embedding.tied else "untied")
    pairs = config.embedding.bigram
    if isinstance(pairs, schema.HashedBigram) and pairs.order > 2:
        parts.append(f"hashed table of 2- to {pairs.order}-grams")
    elif pairs.kind != "none":
        parts.append(f"{pairs.kind} bigram table")
    kinds = dict.fromkeys(kind.label for kind in config.linears.values() if not kind.plain)
    return ", ".join([*parts, *kinds])


def _baseline_line(config: schema.LinearConfig | schema.MlpConfig | schema.LstmConfig) -> str:
    kinds = dict.fromkeys(kind.label for kind in config.linears.values() if not kind.plain)
    if isinstance(config, schema.LstmConfig):
        hidden = config.hidden or config.dim
        shape = [
            f"{config.layers} x {hidden}",
            *([f"embedding {config.dim}"] if hidden != config.dim else []),
        ]
        return ", ".join([config.kind, *shape, "tied" if config.tied else "untied", *kinds])
    shape = [f"{config.layers} x {config.hidden}"] if isinstance(config, schema.MlpConfig) else []
    return ", ".join([config.kind, f"last {config.history} x {config.dim}", *shape, *kinds])


def training_curve(path: Path) -> run_summary.Curve:
    """Return the curve that a training's log holds; raise FlyweightError for another log."""
    try:
        return _drawn(read_events(path))
    except (KeyError, TypeError, ValueError) as error:
        raise FlyweightError(
            f"{path}: not the log of a training ({error}); delete {path.parent} and run again"
        ) from error


def _drawn(events: Sequence[Mapping[str, Any]]) -> run_summary.Curve:
    steps = [event for event in events if event["event"] == "step"]
    for event in events:
        for key in event.keys() & {"step", "seconds", "flops", "lr"}:
            if not 0 <= event[key] <= MOST:
                raise ValueError(f"{key}: {event[key]!r} is not such a quantity")
        unscored = event["event"] == "snapshot" and event.get("nll") is None
        scored = isinstance(event.get("nll", 0.0), int | float)
        if not isinstance(event["event"], str) or not (scored or unscored):
            raise TypeError(f"event {event['event']!r} with nll {event.get('nll')!r}")
    return run_summary.Curve(
        step=tuple(event["step"] for event in steps),
        train_nll=tuple(event["nll"] for event in steps),
        lr=tuple(event["lr"] for event in steps),
        validation=tuple(
            run_summary.Validation(event["step"], event["nll"], event["seconds"], event["flops"])
            for event in events
            if event["event"] == "validation"
        ),
    )


def corpus(artifact: Artifact, context: int, floors: Artifact | None) -> run_summary.CorpusSummary:
    """Return one packed corpus, with the n-gram floors measured on it."""
    meta = Corpus.open(artifact.path / "corpus", verify=False).meta
    config = artifact.identity["config"]
    measured = None if floors is None else NgramFloors.from_metrics(floors.metrics())
    return run_summary.CorpusSummary(
        name=f"{'a stream: ' if 'stream' in config else ''}{text_label(config)}",
        fingerprint=meta.fingerprint,
        tokenizer=f"{config['tokenizer']['kind']} ({meta.vocab_size:,})",
        vocab_size=meta.vocab_size,
        context=context,
        splits={
            name: run_summary.SplitSummary(
                **{key: getattr(split, key) for key in run_summary.SplitSummary.model_fields}
            )
            for name, split in meta.splits.items()
        },
        overlap={
            name: split.overlap for name, split in meta.splits.items() if split.overlap is not None
        },
        overlap_unit=meta.overlap_unit,
        floors={} if measured is None else measured.named(),
        floors_train_tokens=None if measured is None else measured.train_tokens,
        megabytes_per_second=meta.megabytes_per_second,
        source=artifact.identity["data"],
        lossless=meta.lossless,
        skipped=meta.skipped,
        left_out=meta.left_out,
    )


def on_tasks(source: ModelArtifacts) -> dict[str, Artifact]:
    """Return a model's scores on tasks, in the order in which the report names them."""
    return {key: made for key, made in source.measured.items() if key.startswith(SCORED)}


def _scores(artifact: Artifact) -> TaskScores:
    """Return a model's scores on a task, with the answers that a page shows."""
    scores = TaskScores.from_metrics(artifact.metrics())
    return scores.model_copy(update={"answers": scores.answers[:ANSWERS_SHOWN]})


def budget(
    recipe: schema.Recipe,
    meter: Meter,
    compared: Sequence[run_summary.ModelSummary],
    planned: Mapping[str, float],
) -> Any:
    """Return what was planned, limited and used, line by line."""
    limits = recipe.budget
    smallest = min(compared, key=lambda model: model.disk_bytes or 0)
    used = [
        ("time", "s", limits.time, meter.seconds()),
        ("flops", "FLOPs", limits.flops, meter.flops),
        ("memory", "bytes", limits.memory, float(meter.peak_bytes)),
        (
            "parameters",
            "parameters",
            limits.parameters,
            float(min(model.parameters.unique for model in compared)),
        ),
        ("bytes", "bytes", limits.bytes, float(smallest.disk_bytes or 0)),
    ]
    return tuple(
        run_summary.BudgetLine(
            name=name,
            unit=unit,
            planned=planned.get(name),
            used=value,
            limit=limit,
            ok=limit is None or value <= limit,
        )
        for name, unit, limit, value in used
    )


def now() -> datetime.datetime:
    """Return the time of day, with its zone."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
