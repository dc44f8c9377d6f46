"""Plan a recipe before anything runs: the cost of models, the needs of stages, and the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flyweight.compression.quantize import quantized
from flyweight.config import load, schema
from flyweight.config.model_rules import fitting_vocabulary
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
from flyweight.store.stage import Outline
from flyweight.training.limits import Limits
from flyweight.training.step_cost import StepCost

ASSUMED_VOCAB = {"byte": 258, "char": 128, "word": 10_000, "file": 32_000}


@dataclass(frozen=True, repr=False)
class ModelPlan(Shown):
    """The size and the costs of one model.

    `kv_bytes_per_token` and `weight_bytes` count float32 unless quantized. `kv_bytes` are those of
    a whole context, which a sliding window bounds. `weights` has the bytes by dtype: with floats in
    32 or 16 bits and, of a model that is not quantized, as `quantize` would store it. `depth` is
    how many layers a token goes through in a decoder. Where a loop is switched on late,
    `training_per_token` is the mean over a whole run.
    """

    parameters: cost.Parameters
    forward_per_token: float
    training_per_token: float
    kv_bytes_per_token: int
    kv_bytes: int
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
            training_per_token=StepCost.of(config, train, config.context).mean / tokens,
            kv_bytes_per_token=cost.kv_bytes_per_token(config),
            kv_bytes=cost.kv_bytes(config, config.context),
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
            "kv_bytes": self.kv_bytes,
            "weight_bytes": self.weight_bytes,
            "weight_bytes_by_dtype": self.weights,
            "effective_depth": self.depth,
            "context": self.context,
        }


def _weights(config: schema.Architecture) -> dict[str, int]:
    sizes = {"float32": cost.weight_bytes(config, 4), "bfloat16": cost.weight_bytes(config, 2)}
    if all(kind.plain for kind in config.linears.values()):
        for kind in (schema.Int8(), schema.NF4()):
            sizes[kind.kind] = cost.weight_bytes(quantized(config, kind, schema.Int8()))
    return sizes


@dataclass(frozen=True)
class StagePlan:
    """The needs of one training stage.

    `seconds` and `steps` are None where the limit comes from another stage's clock. `validating`
    is the part of its seconds that validations take.
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

    `faults` names the limits of the budget that cannot hold, each with what to change. `warnings`
    names limits that probably will not hold: time depends on what else this machine does. `beside`
    has the rows other than training, `smallest` the parameters and bytes of the smallest model
    compared, `unread` the corpora whose vocabulary is not known yet.
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
        """The rows of time in the order of a run: packing, training, validating, the rest."""
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
        """The numbers that the budget limits; an unknown one counts as 0.

        They are the seconds of all rows, training FLOPs, the memory of the largest stage, and the
        parameters and bytes of the smallest model.
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

    `vocabularies` has the vocabulary of corpora that are packed already. A corpus that was not read
    yet gets the vocabulary that its tokenizer asks for, or an assumed one. The plan names assumed
    vocabularies, and they fit every model. Raises RequestError with all faults of the models of all
    stages.
    """
    planner = _Planner(shared_time(recipe), runtime, vocabularies or {}, data_dir)
    for name in load.order(recipe):
        planner.add(name)
    return planner.plan()


@dataclass
class _Planner:
    """Plans the stages of a recipe, each after what it refers to."""

    recipe: schema.Recipe
    runtime: Runtime
    vocabularies: Mapping[str, int]
    data_dir: Path | None
    models: dict[str, schema.Architecture] = field(default_factory=dict)
    trained: dict[str, rows.Stage] = field(default_factory=dict)
    planned: dict[str, StagePlan] = field(default_factory=dict)
    outlines: dict[str, Outline] = field(default_factory=dict)
    sizes: dict[str, TextSize] = field(default_factory=dict)
    unread: dict[str, schema.Data] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Plan one stage; what is wrong with its model is kept for the end."""
        stage = self.recipe.stages[name]
        try:
            if isinstance(stage, schema.TrainingStage):
                self._train(name, stage)
            elif stage.stage not in time.MEASURES:
                self._outline(name, stage)
        except RequestError as error:
            self.wrong.append(str(error))

    def _outline(self, name: str, stage: schema.StageConfig) -> None:
        """Plan a stage that does not train."""
        made = rows.outline(self.recipe, name, self.models, self.trained, self.sizes)
        self.outlines[name] = made
        self.assumed += [f"{name}: {note}" for note in made.notes]
        if stage.makes_model and made.model is not None:
            self.models[name] = made.model

    def _train(self, name: str, stage: schema.TrainingStage) -> None:
        """Plan a stage that trains."""
        fresh = stage.model is not None
        if stage.model is None:
            source = self.recipe.stages.get(stage.dependencies().get("input", ""))
            if not isinstance(source, schema.TrainingStage) or source.model is None:
                self.assumed.append(
                    f"{name}: the model it starts from is outside this recipe and is not planned"
                )
                return
            stage = stage.model_copy(update={"model": source.model})
        assert stage.model is not None
        data = with_tokenizer(stage.data, self.data_dir)
        known = self.vocabularies.get(vocabulary_key(data))
        if known is None and not isinstance(data.tokenizer, schema.ByteTokenizer):
            self.unread[vocabulary_key(data)] = data
        size = self._size(name, data)
        model = load.resolved(
            stage.model,
            f"stages.{name}.model",
            known or vocabulary(data, stage.model),
            data.context,
        )
        self.models[name] = model
        self.wrong += [f"stages.{name}.model.{fault}" for fault in pattern_faults(model)]
        self.trained[name] = rows.Stage(model, data)
        self.planned[name] = self._stage_plan(name, stage, model, fresh, size)
        if known is None and (note := _assumption(data, model)):
            self.assumed.append(f"{name}: {note}")

    def _size(self, name: str, data: schema.Data) -> TextSize | None:
        """Return the size of a text, read once; remark where it is not known."""
        key = rows.text_key(data)
        if key not in self.sizes and (size := rows.size_of(data, self.data_dir)):
            self.sizes[key] = size
        if key not in self.sizes:
            self.assumed.append(
                f"{name}: the size of {data.corpus} is not known yet; packing and measuring it "
                f"are not in the time"
            )
        return self.sizes.get(key)

    def _stage_plan(
        self,
        name: str,
        stage: schema.TrainingStage,
        model: schema.Architecture,
        fresh: bool,
        size: TextSize | None,
    ) -> StagePlan:
        """Return what one training will need: steps, FLOPs, seconds, memory."""
        train, context, runtime = stage.train, stage.data.context, self.runtime
        precision = runtime.precision(train.precision, model.dim)
        speed = Speed(runtime.device, runtime.threads, precision)
        teacher = self.models.get(stage.dependencies().get("teacher", ""))
        teacher_flops = 0 if teacher is None else cost.forward_flops(teacher, context)
        flops = StepCost.of(model, train, context, teacher_flops, fresh=fresh)
        if train.same_as is not None:
            train = _same_as(train, self.planned, self.recipe)
        validated = train.validation_tokens if size is None else size.validation
        step_seconds = time.step_seconds(model, train, context, flops.mean, speed)
        limits = None
        if train.steps or train.tokens or train.flops:
            limits = Limits.of(train, train.batch * context, flops, name).steps
        if limits is not None:  # no weights are validated twice
            train = train.model_copy(update={"validations": min(train.validations, limits)})
        validating = time.validation_seconds(model, train, validated, speed)
        steps, seconds = _steps_and_seconds(limits, train.time, step_seconds, validating)
        return StagePlan(
            name=name,
            model=ModelPlan.of(model, train),
            steps=steps,
            tokens=steps and steps * train.batch * context,
            flops=steps and float(flops.total(steps)),
            seconds=seconds,
            memory=memory.training(model, train, context, speed.itemsize, teacher, runtime.device),
            validating=min(validating, seconds or 0.0),
        )

    def plan(self) -> Plan:
        """Return the whole plan; raise RequestError with everything that is wrong."""
        if self.wrong:
            raise RequestError("\n".join(self.wrong))
        recipe, stages = self.recipe, tuple(self.planned.values())
        compared = recipe.report.compare or self.models
        smallest = _smallest([self.models[name] for name in compared if name in self.models])
        speed = Speed(self.runtime.device, self.runtime.threads)
        beside = rows.beside_training(recipe, self.trained, self.sizes, self.outlines, speed)
        made = Plan(
            name=recipe.name,
            stages=stages,
            assumed=tuple(dict.fromkeys(self.assumed)),
            faults=tuple(_faults(recipe, stages, smallest)),
            beside=tuple(beside),
            smallest=smallest,
            unread=tuple(self.unread.values()),
        )
        return replace(made, warnings=tuple(_warnings(recipe, made.totals["time"])))


def _steps_and_seconds(
    steps: int | None, limit: float | None, step_seconds: float, validating: float
) -> tuple[int | None, float | None]:
    """Return how many steps fit both limits, and their seconds; `limit` is in seconds."""
    by_time = None if limit is None else max(1, int((limit - validating) / step_seconds))
    if steps is None:
        return by_time, limit
    seconds = steps * step_seconds + validating
    if limit is not None and by_time is not None and seconds > limit:
        return by_time, limit
    return steps, seconds


def _smallest(models: Sequence[schema.Architecture]) -> dict[str, float]:
    if not models:
        return {}
    return {
        "parameters": min(cost.parameters(model).unique for model in models),
        "bytes": min(cost.weight_bytes(model) for model in models),
    }


def vocabulary_key(data: schema.Data) -> str:
    """Return the key of a corpus' vocabulary: its data config without the context."""
    return data.packed().model_dump_json()


def vocabulary(data: schema.Data, model: schema.Architecture) -> int:
    """Return the vocabulary of an unread corpus: its tokenizer's, else an assumed one.

    An assumed one is changed to the nearest that the model allows.
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
    """Return the assumption about an unread corpus in words.

    Empty where its tokenizer decides.
    """
    if data.tokenizer is None or requested(data):
        return ""
    return (
        f"{model.vocab_size} {data.tokenizer.kind} tokens (the real number is known once the "
        "corpus has been read)"
    )


def _same_as(
    train: schema.Train, found: Mapping[str, StagePlan], recipe: schema.Recipe
) -> schema.Train:
    """Return the limit that `same_as` probably means, from the other stage's plan."""
    other = found.get(train.same_as.stage) if train.same_as else None
    if other is None or train.same_as is None:
        return train
    what = train.same_as.of
    value: float | None = getattr(other, what.removeprefix("total_"))
    if value is not None and what.startswith("total_"):
        parents = [ref for ref in recipe.stages[other.name].dependencies().values() if ref in found]
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
                f"budget.memory: {format_size(limits.memory)}, but {largest.name} needs about "
                f"{format_size(largest.memory.total)} (activations "
                f"{format_size(largest.memory.activations)}: raise train.accumulate or lower "
                "train.batch)"
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
            f"{least}: lower model.dim or model.layers"
        )
    if limits.bytes is not None and smallest.get("bytes", 0) > limits.bytes:
        least = format_size(smallest["bytes"])
        faults.append(
            f"budget.bytes: {format_size(limits.bytes)}, but the smallest model takes {least}: add "
            "a quantize stage to what is compared, or lower model.dim or the tokenizer's vocab"
        )
    return faults


def _warnings(recipe: schema.Recipe, seconds: float) -> list[str]:
    limit = recipe.budget.time
    if limit is None or seconds <= limit:
        return []
    return [
        f"budget.time: {format_time(limit)}, but it will take about {format_time(seconds)} on this "
        "machine as busy as it is: lower train.steps, or give it more time"
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
