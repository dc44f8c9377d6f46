"""The plan: what a model costs, what a recipe will need, and whether its budget holds, all before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flyweight.compression.quantize import quantized
from flyweight.config import load, schema
from flyweight.config.rules import fitting_vocabulary
from flyweight.config.units import format_count, format_size, format_time
from flyweight.core.runtime import Runtime
from flyweight.data.sources import with_tokenizer
from flyweight.errors import RequestError
from flyweight.planning import memory, rows, time
from flyweight.planning.budget import shared_time
from flyweight.planning.rows import Row
from flyweight.planning.shown import Shown
from flyweight.planning.time import Speed, TextSize
from flyweight.spec import flops as cost, visits
from flyweight.spec.linears import pattern_faults
from flyweight.training import mix
from flyweight.training.step_cost import StepFlops
from flyweight.training.trainer import Limits

ASSUMED_VOCAB = {"byte": 258, "char": 128, "word": 10_000, "file": 32_000}


@dataclass(frozen=True, repr=False)
class ModelPlan(Shown):
    """What one model is and costs.

    `kv_bytes_per_token` and `weight_bytes` in float32 unless quantized.

    `weights` has the bytes by dtype: with floats in 32 or 16 bits and, of a model that is not
    quantized yet, as `quantize` would store it. `depth` is how many layers a token goes through in
    a decoder. Where a loop is switched on late, `training_per_token` is the mean over a whole run.
    """

    parameters: cost.Parameters
    forward_per_token: float
    training_per_token: float
    kv_bytes_per_token: int
    weight_bytes: int
    weights: dict[str, int]
    depth: int | None
    context: int

    @classmethod
    def of(cls, config: schema.Architecture, train: schema.Train | None = None) -> ModelPlan:
        """Return the plan of a resolved config.

        Training counts the optimizer of `train` (default AdamW) at its batch.
        """
        config = config.resolved()
        assert config.context
        train = train or schema.Train()
        tokens = train.batch * config.context
        return cls(
            parameters=cost.parameters(config),
            forward_per_token=cost.forward_flops(config, config.context) / config.context,
            training_per_token=StepFlops.of(config, train, config.context).mean / tokens,
            kv_bytes_per_token=cost.kv_bytes_per_token(config),
            weight_bytes=cost.weight_bytes(config),
            weights=_weights(config),
            depth=len(visits.slots(config)) if isinstance(config, schema.ModelConfig) else None,
            context=config.context,
        )

    def json(self) -> dict[str, Any]:
        """Return INTERFACE's keys."""
        return {
            "parameters": asdict(self.parameters),
            "flops": {
                "forward_per_token": self.forward_per_token,
                "training_per_token": self.training_per_token,
            },
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "weight_bytes": self.weight_bytes,
            "weight_bytes_by_dtype": self.weights,
            "effective_depth": self.depth,
            "context": self.context,
        }


def _weights(config: schema.Architecture) -> dict[str, int]:
    found = {"float32": cost.weight_bytes(config, 4), "bfloat16": cost.weight_bytes(config, 2)}
    if all(kind.plain for kind in config.linears.values()):
        for kind in (schema.Int8(), schema.NF4()):
            found[kind.kind] = cost.weight_bytes(quantized(config, kind, schema.Int8()))
    return found


@dataclass(frozen=True)
class StagePlan:
    """What one training stage will need.

    `seconds` and `steps` are None where the limit comes from another stage's clock.

    `validating` are those of its seconds that its validations take.
    """

    name: str
    model: ModelPlan
    steps: int | None
    tokens: int | None
    flops: float | None
    seconds: float | None
    memory: memory.Memory
    validating: float = 0.0


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """A recipe's plan.

    `faults` says which limits of the budget cannot hold, each with what to change; `warnings` which
    probably will not: time depends on what else this machine is doing. `beside` has what takes time
    beside training, `smallest` the parameters and bytes of the smallest model compared, `unread`
    the corpora whose vocabulary is not known yet.
    """

    name: str
    stages: tuple[StagePlan, ...]
    assumed: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    beside: tuple[Row, ...] = ()
    smallest: Mapping[str, float] = field(default_factory=dict[str, float])
    unread: tuple[schema.Data, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """Everything that takes time, in the order of a run: packing, training, validating, the rest."""
        training = [
            Row(stage.name, max(0.0, (stage.seconds or 0.0) - stage.validating), "training")
            for stage in self.stages
        ]
        validating = sum(stage.validating for stage in self.stages)
        packing = [row for row in self.beside if row.kind == "packing"]
        rest = [row for row in self.beside if row.kind != "packing"]
        return (
            *packing,
            *training,
            *([Row("validating", validating, "validating")] if validating else []),
            *rest,
        )

    @property
    def measuring(self) -> float:
        """The seconds of all measurements."""
        return sum(row.seconds for row in self.beside if row.kind == "measuring")

    @property
    def totals(self) -> dict[str, float]:
        """What the budget counts: the seconds of all rows, training FLOPs, the largest stage's memory, the smallest model.

        The unknown counts as nothing.
        """
        return {
            "time": sum(row.seconds for row in self.rows),
            "flops": sum(stage.flops or 0.0 for stage in self.stages),
            "memory": max((stage.memory.total for stage in self.stages), default=0),
            **self.smallest,
        }

    def json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        stages = {
            stage.name: {
                **stage.model.json(),
                "steps": stage.steps,
                "tokens": stage.tokens,
                "training_flops": stage.flops,
                "seconds": stage.seconds,
                "validation_seconds": stage.validating,
                "memory": {**asdict(stage.memory), "total": stage.memory.total},
            }
            for stage in self.stages
        }
        return {
            "name": self.name,
            "stages": stages,
            "rows": [asdict(row) for row in self.rows],
            "total": self.totals,
            "assumed": self.assumed,
            "faults": self.faults,
            "warnings": self.warnings,
        }


def plan(
    recipe: schema.Recipe,
    runtime: Runtime,
    vocabularies: Mapping[str, int] | None = None,
    data_dir: Path | None = None,
) -> Plan:
    """Return what a recipe's training stages will need.

    `vocabularies` tells the vocabulary of corpora that are packed already.

    A corpus that nobody has read yet gets the vocabulary its tokenizer asks for, or an assumed one,
    which the plan says and of which no model can fall foul. Raises RequestError with everything
    that is wrong with the models of all stages.
    """
    recipe, assumed, found, wrong = shared_time(recipe), [], {}, list[str]()
    models: dict[str, schema.Architecture] = {}
    trained: dict[str, rows.Stage] = {}
    sizes: dict[str, TextSize] = {}
    unread: dict[str, schema.Data] = {}
    for name in load.order(recipe):
        stage = recipe.stages[name]
        if isinstance(stage, schema.Quantize) and stage.input in models:
            models[name] = quantized(models[stage.input], stage.kind, stage.embedding)
        network = models.get(stage.input) if isinstance(stage, schema.Mix) else None
        if isinstance(stage, schema.Mix) and isinstance(network, schema.ModelConfig):
            models[name] = mix.planned(network, stage)
            if stage.counts is not None and stage.counts.limit is None:
                assumed.append(
                    f"{name}: its n-gram counts are not planned: their size follows from the text"
                )
        if not isinstance(stage, schema.Pretrain | schema.Distill):
            continue
        fresh = stage.model is not None
        if stage.model is None:
            source = recipe.stages.get(stage.input or "")
            if not isinstance(source, schema.Pretrain | schema.Distill) or source.model is None:
                assumed.append(
                    f"{name}: the model it starts from is outside this recipe and is not planned"
                )
                continue
            stage = stage.model_copy(update={"model": source.model})
        data = with_tokenizer(stage.data, data_dir)
        assert stage.model is not None
        known = (vocabularies or {}).get(vocabulary_key(data))
        if known is None and not isinstance(data.tokenizer, schema.ByteTokenizer):
            unread[vocabulary_key(data)] = data
        key = rows.text_key(data)
        if key not in sizes and (size := rows.size_of(data, data_dir)):
            sizes[key] = size
        if key not in sizes:
            assumed.append(
                f"{name}: the size of {data.corpus} is not known yet; packing and measuring it "
                f"are not in the time"
            )
        try:
            models[name] = load.resolved(
                stage.model,
                f"stages.{name}.model",
                known or vocabulary(data, stage.model),
                data.context,
            )
            wrong += [f"stages.{name}.model.{fault}" for fault in pattern_faults(models[name])]
            trained[name] = rows.Stage(models[name], data)
            validation = sizes[key].validation if key in sizes else None
            found[name] = _stage(
                name, stage, models[name], found, models, recipe, runtime, fresh, validation
            )
        except RequestError as error:
            wrong.append(str(error))
            continue
        if known is None and (note := _assumption(data, models[name])):
            assumed.append(f"{name}: {note}")
    if wrong:
        raise RequestError("\n".join(wrong))
    stages = tuple(found.values())
    smallest = _smallest(
        [models[name] for name in recipe.report.compare or models if name in models]
    )
    beside = rows.beside_training(recipe, trained, sizes, Speed(runtime.device, runtime.threads))
    made = Plan(
        recipe.name, stages, tuple(dict.fromkeys(assumed)), beside=tuple(beside), smallest=smallest
    )
    faults, warnings = _faults(recipe, stages, smallest), _warnings(recipe, made.totals["time"])
    return replace(
        made, faults=tuple(faults), warnings=tuple(warnings), unread=tuple(unread.values())
    )


def _smallest(models: Sequence[schema.Architecture]) -> dict[str, float]:
    if not models:
        return {}
    return {
        "parameters": min(cost.parameters(model).unique for model in models),
        "bytes": min(cost.weight_bytes(model) for model in models),
    }


def vocabulary_key(data: schema.Data) -> str:
    """Return what a corpus' vocabulary depends on: its data config without the context."""
    return data.model_copy(update={"context": 1}).model_dump_json()


def vocabulary(data: schema.Data, model: schema.Architecture) -> int:
    """Return the vocabulary of a corpus that nobody has read: what its tokenizer asks for, else an assumed one.

    An assumed one is moved to where the model allows it.
    """
    assert data.tokenizer is not None
    if vocab := requested(data):
        return vocab
    vocab = ASSUMED_VOCAB[data.tokenizer.kind]
    return fitting_vocabulary(model, vocab) if isinstance(model, schema.ModelConfig) else vocab


def requested(data: schema.Data) -> int | None:
    """Return the vocabulary that a corpus' tokenizer asks for, or None where its text decides."""
    if isinstance(data.tokenizer, schema.ByteTokenizer):
        return ASSUMED_VOCAB["byte"]
    return data.tokenizer.vocab if isinstance(data.tokenizer, schema.BpeTokenizer) else None


def _assumption(data: schema.Data, model: schema.Architecture) -> str:
    """Return what is assumed of a corpus that nobody has read.

    Empty where its tokenizer says it.
    """
    if data.tokenizer is None or requested(data):
        return ""
    return (
        f"{model.vocab_size} {data.tokenizer.kind} tokens (the real number is known once the "
        f"corpus has been read)"
    )


def _stage(
    name: str,
    stage: Any,
    config: schema.Architecture,
    found: Mapping[str, StagePlan],
    models: Mapping[str, schema.Architecture],
    recipe: schema.Recipe,
    runtime: Runtime,
    fresh: bool,
    validation_tokens: int | None,
) -> StagePlan:
    train, context = stage.train, stage.data.context
    speed = Speed(runtime.device, runtime.threads, runtime.precision(train.precision, config.dim))
    teacher = models.get(stage.teacher) if isinstance(stage, schema.Distill) else None
    told = 0 if teacher is None else cost.forward_flops(teacher, context)
    flops = StepFlops.of(config, train, context, told, fresh=fresh)
    if train.same_as is not None:
        train = _same_as(train, stage, found, recipe)
    validated = train.validation_tokens if validation_tokens is None else validation_tokens
    validating = time.validation_seconds(config, train, validated, speed)
    each = time.step_seconds(config, train, context, flops.mean, speed)
    steps, seconds = None, train.time
    if train.steps or train.tokens or train.flops:
        steps = Limits.of(train, train.batch * context, flops, name).steps
    if steps is not None:
        by_steps = steps * each + validating
        if seconds is not None and by_steps > seconds:
            steps = max(1, int((seconds - validating) / each))
        seconds = min(by_steps, seconds or by_steps)
    elif seconds is not None:
        steps = max(1, int((seconds - validating) / each))
    return StagePlan(
        name=name,
        model=ModelPlan.of(config, train),
        steps=steps,
        tokens=steps and steps * train.batch * context,
        flops=steps and float(flops.total(steps)),
        seconds=seconds,
        memory=memory.training(config, train, context, speed.itemsize, teacher, runtime.device),
        validating=min(validating, seconds or 0.0),
    )


def _same_as(
    train: schema.Train, stage: Any, found: Mapping[str, StagePlan], recipe: schema.Recipe
) -> schema.Train:
    """Return the limit that `same_as` will probably stand for, from the other stage's plan."""
    other = found.get(train.same_as.stage) if train.same_as else None
    if other is None or train.same_as is None:
        return train
    what = train.same_as.of
    value: float | None = getattr(other, what.removeprefix("total_"))
    if value is not None and what.startswith("total_"):
        parents = [
            ref for ref in load.dependencies(recipe.stages[other.name]).values() if ref in found
        ]
        value += sum(getattr(found[ref], what.removeprefix("total_")) or 0 for ref in parents)
    if value is None:
        return train
    key = {"tokens": "tokens", "flops": "flops", "seconds": "time"}[what.removeprefix("total_")]
    return train.model_copy(update={key: value if key == "time" else round(value)})


def _faults(
    recipe: schema.Recipe, stages: tuple[StagePlan, ...], smallest: Mapping[str, float]
) -> list[str]:
    """Return every limit of the budget that the plan already breaks."""
    limits, faults = recipe.budget, []
    if stages:
        largest = max(stages, key=lambda stage: stage.memory.total)
        if limits.memory is not None and largest.memory.total > limits.memory:
            faults.append(
                f"budget.memory: {format_size(limits.memory)}, but {largest.name} needs about"
                f" {format_size(largest.memory.total)} (activations "
                f"{format_size(largest.memory.activations)}: raise"
                " train.accumulate or lower train.batch)"
            )
    flops = sum(stage.flops or 0.0 for stage in stages)
    if limits.flops is not None and flops > limits.flops:
        faults.append(
            f"budget.flops: {format_count(limits.flops)}, but training takes "
            f"{format_count(flops)}: lower train.steps"
        )
    if limits.parameters is not None and smallest.get("parameters", 0) > limits.parameters:
        least = format_count(smallest["parameters"])
        faults.append(
            f"budget.parameters: {format_count(limits.parameters)}, but the smallest model has "
            f"{least}: lower model.dim or"
            " model.layers"
        )
    if limits.bytes is not None and smallest.get("bytes", 0) > limits.bytes:
        least = format_size(smallest["bytes"])
        faults.append(
            f"budget.bytes: {format_size(limits.bytes)}, but the smallest model takes {least}: "
            f"add a quantize stage to what"
            " is compared, or lower model.dim or the tokenizer's vocab"
        )
    return faults


def _warnings(recipe: schema.Recipe, seconds: float) -> list[str]:
    limit = recipe.budget.time
    if limit is None or seconds <= limit:
        return []
    return [
        f"budget.time: {format_time(limit)}, but it will take about {format_time(seconds)} on "
        f"this machine as busy"
        " as it is: lower train.steps, or give it more time"
    ]


def refuse(planned: Plan) -> None:
    """Raise RequestError with every limit that the plan already breaks."""
    if planned.faults:
        raise RequestError(
            "\n".join(
                [
                    f"{planned.name} does not fit its budget:",
                    *(f"  {fault}" for fault in planned.faults),
                ]
            )
        )
