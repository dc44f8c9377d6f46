"""Plan a recipe before anything runs: the needs of its stages, its time, and its budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from flyweight.config import load, schema
from flyweight.config.model_rules import fitting_vocabulary
from flyweight.config.stage import sources_of_tokens
from flyweight.config.units import count_word, format_count, format_size, format_time, size_word
from flyweight.core.events import Watcher, ignore
from flyweight.data.sources import with_tokenizer
from flyweight.errors import RequestError
from flyweight.planning import evaluating, memory, rows, time
from flyweight.planning.budget import limitless, shared_time
from flyweight.planning.fitting import Fitting, fit
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.recipe_plan import Plan, StagePlan
from flyweight.planning.rows import TimeRow
from flyweight.planning.task_size import TaskSize, local_task_size
from flyweight.planning.text_size import TextSize, local_text_size, text_size
from flyweight.planning.time import Machine
from flyweight.spec import flops as cost
from flyweight.spec.adapters import adapter_faults
from flyweight.spec.linears import pattern_faults
from flyweight.spec.matching import part_faults
from flyweight.store.stage import Outline
from flyweight.training.limits import Limits
from flyweight.training.planned_training import PlannedTraining
from flyweight.training.step_cost import StepCost

ASSUMED_VOCAB = {"byte": 258, "char": 128, "word": 10_000, "file": 32_000, "model": 32_000}


def plan(
    recipe: schema.Recipe,
    machine: Machine,
    vocabularies: Mapping[str, int] | None = None,
    data_dir: Path | None = None,
    packed_tokens: Mapping[str, int] | None = None,
    known: Mapping[str, schema.Architecture] = MappingProxyType({}),
    dry_run: bool | None = None,
    watch: Watcher = ignore,
) -> Plan:
    """Return what a recipe's training stages will need, with its time shared out.

    `vocabularies` has the vocabulary of corpora that are packed already, `packed_tokens` the tokens
    of their train splits; their keys are `vocabulary_key`. A corpus that was not read
    yet gets the vocabulary that its tokenizer asks for, or an assumed one. The plan names assumed
    vocabularies, and they fit every model. `known` are models from outside the recipe that stages
    refer to. With `dry_run` memory is counted in a dry run of each training, else estimated by
    formulas; by default it is counted where `budget.memory` limits it. Raises RequestError with all
    faults of the models of all stages.
    """
    if any(limitless(stage) for stage in recipe.stages.values()):
        recipe, _ = time_shared(recipe, machine, data_dir)
    planner = _Planner(
        recipe,
        machine,
        vocabularies or {},
        data_dir,
        local_text_size,
        packed_tokens=packed_tokens or {},
        models=dict(known),
        dry_run=recipe.budget.memory is not None if dry_run is None else dry_run,
        watch=watch,
    )
    planner.describe()
    return planner.plan()


def time_shared(
    recipe: schema.Recipe, machine: Machine, data_dir: Path | None
) -> tuple[schema.Recipe, float]:
    """Return the recipe with its time shared out, and the seconds of all work after training.

    The shares leave time for packing and for that work. They are the same whether or not the texts
    are packed already. Texts are read, and fetched where they are elsewhere. Only a recipe that
    trains by the clock asks for this machine's rates; another one is returned as it is, with 0
    seconds. Raises FlyweightError where a text cannot be read.
    """
    trained = [stage for stage in recipe.stages.values() if isinstance(stage, schema.TrainingStage)]
    by_clock = any(stage.train.time or limitless(stage) for stage in trained)
    if recipe.budget.time is None or not by_clock:
        return recipe, 0.0
    planner = _Planner(recipe, machine, {}, data_dir, text_size)
    planner.describe()
    rows = planner.beside()
    before = sum(row.seconds for row in rows if row.kind == "packing")
    after = sum(row.seconds for row in rows if row.kind != "packing")
    return shared_time(recipe, before + after), after


@dataclass(frozen=True)
class _AskedTraining:
    """A training stage with its model filled in, and what it reads.

    `fresh`: it begins with random weights.
    """

    stage: schema.TrainingStage
    data: schema.Data | schema.TaskData
    fresh: bool


@dataclass
class _Planner:
    """Plans the stages of a recipe, each after what it refers to.

    `size_of` returns the size of a text, or None where it is not known. `packed_tokens` are the
    tokens of the train splits of texts that are packed already.
    """

    recipe: schema.Recipe
    machine: Machine
    vocabularies: Mapping[str, int]
    data_dir: Path | None
    size_of: Callable[[schema.Data, Path | None], TextSize | None]
    models: dict[str, schema.Architecture] = field(default_factory=dict)
    trained: dict[str, rows.TrainedStage] = field(default_factory=dict)
    asked: dict[str, _AskedTraining] = field(default_factory=dict)
    planned: dict[str, StagePlan] = field(default_factory=dict)
    outlines: dict[str, Outline] = field(default_factory=dict)
    sizes: dict[str, TextSize] = field(default_factory=dict)
    tasks: dict[str, TaskSize] = field(default_factory=dict)
    unread: dict[str, schema.Data] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    packed_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    dry_run: bool = False
    watch: Watcher = ignore

    @property
    def held(self) -> bool:
        """Whether freed memory goes back to the system at once, to hold a limit of memory."""
        return self.recipe.budget.memory is not None and self.machine.runtime.device == "cpu"

    def describe(self) -> None:
        """Learn the models and texts of all stages; what is wrong is kept for the end."""
        for name in load.order(self.recipe):
            self._describe(name)

    def _describe(self, name: str) -> None:
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
        outline = rows.outline(self.recipe, name, self.models, self.trained, self.sizes)
        self.outlines[name] = outline
        self.assumed += [f"{name}: {note}" for note in outline.notes]
        if isinstance(stage, schema.Teach) and outline.work:
            teachers = [work.model for work in outline.work]
            size = format_size(evaluating.teaching_bytes(teachers, stage.data.context))
            self.assumed.append(f"{name}: its pass over the text holds about {size}")
        if stage.makes_model and outline.model is not None:
            self.models[name] = outline.model

    def _train(self, name: str, stage: schema.TrainingStage) -> None:
        """Learn the model and the text of a stage that trains."""
        fresh = stage.model is not None
        if stage.model is None:
            source = stage.dependencies().get("input", "")
            if source not in self.models:
                where = "is outside this recipe and is not planned"
                if source in self.recipe.stages:
                    where = f"is known once {source} has run, and is not planned"
                self.assumed.append(f"{name}: the model it starts from {where}")
                return
            self.wrong += _input_faults(name, stage, self.models[source])
            trained = stage.trained_config(self.models[source])
            stage = stage.model_copy(update={"model": trained})
        assert stage.model is not None
        if isinstance(stage.data, schema.TaskData):
            self._train_on_task(name, stage, stage.model, stage.data)
            return
        data = with_tokenizer(stage.data, self.data_dir)
        known = self._vocabulary_of(data, stage)
        own = isinstance(data.tokenizer, schema.ByteTokenizer | schema.ModelTokenizer)
        if known is None and not own:
            self.unread[vocabulary_key(data)] = data
        self._read(name, data)
        model = stage.model
        if fresh:
            tokens = known or vocabulary(data, model)
            model = load.resolved(model, f"stages.{name}.model", tokens, data.context)
        self.models[name] = model
        faults = [*pattern_faults(model), *adapter_faults(model)]
        self.wrong += [f"stages.{name}.model.{fault}" for fault in faults]
        teacher = self.models.get(stage.dependencies().get("teacher", ""))
        if isinstance(stage, schema.Distill) and teacher is not None:
            faults = part_faults(stage, model, teacher)
            self.wrong += [f"stages.{name}.{fault}" for fault in faults]
        self.trained[name] = rows.TrainedStage(model, data)
        if count := len(stage.train.snapshots):
            each = evaluating.FLOAT * cost.trained_parameters(model, stage.tuning().trains)
            self.assumed.append(
                f"{name}: {count} snapshot{'s' * (count > 1)} take {format_size(count * each)} of "
                f"disk"
            )
        self.asked[name] = _AskedTraining(stage, data, fresh)
        if known is None and (note := _assumption(data, model)):
            self.assumed.append(f"{name}: {note}")

    def _train_on_task(
        self,
        name: str,
        stage: schema.TrainingStage,
        model: schema.Architecture,
        data: schema.TaskData,
    ) -> None:
        """Learn the model and the examples of a stage that learns a task."""
        self.models[name] = model
        faults = [*pattern_faults(model), *adapter_faults(model)]
        self.wrong += [f"stages.{name}.method.{fault}" for fault in faults]
        self.asked[name] = _AskedTraining(stage, data, fresh=False)
        if size := local_task_size(data, self.data_dir):
            self.tasks[name] = size
        else:
            self.assumed.append(f"{name}: the size of {data.task} is not known yet")

    def _vocabulary_of(self, data: schema.Data, stage: schema.TrainingStage) -> int | None:
        """Return the vocabulary of a stage's text where it is known before the text is packed."""
        if not isinstance(data.tokenizer, schema.ModelTokenizer):
            return self.vocabularies.get(vocabulary_key(data))
        reference = stage.dependencies()
        names = [reference[field] for field in sources_of_tokens(reference)]
        source = next((self.models[name] for name in names if name in self.models), None)
        return None if source is None else source.vocab_size

    def _read(self, name: str, data: schema.Data) -> None:
        """Learn the size of a text; remark where it is not known."""
        key = rows.text_key(data)
        if key not in self.sizes and (size := self.size_of(data, self.data_dir)):
            self.sizes[key] = size
        if key not in self.sizes:
            self.assumed.append(
                f"{name}: the size of {data.label} is not known yet; packing and measuring it "
                f"are not in the time"
            )

    def beside(self) -> list[TimeRow]:
        """Return the rows of time other than trainings and validations."""
        speed = self.machine.speed("fp32", self.recipe.budget.rate)
        return rows.beside_training(self.recipe, self.trained, self.sizes, self.outlines, speed)

    def _told(self) -> dict[str, dict[str, float]]:
        """Return the FLOPs and seconds of each stage that asks teachers before a student learns."""
        speed = self.machine.speed("fp32", self.recipe.budget.rate)
        return {
            name: {
                "flops": sum(
                    work.tokens
                    / stage.data.context
                    * cost.forward_flops(work.model, stage.data.context)
                    for work in self.outlines[name].work
                ),
                "seconds": sum(time.work_seconds(work, speed) for work in self.outlines[name].work),
            }
            for name, stage in self.recipe.stages.items()
            if isinstance(stage, schema.Teach) and name in self.outlines
        }

    def _stage_plan(self, name: str, asked: _AskedTraining) -> StagePlan:
        """Return what one training will need: steps, FLOPs, seconds, memory."""
        stage = asked.stage
        model, data = self.models[name], asked.data
        train, context = stage.train, data.context
        speed = self.machine.training_speed(train, model.dim, self.recipe.budget.rate)
        teacher = self._running_teacher(stage)
        teacher_flops = 0 if teacher is None else cost.forward_flops(teacher, context)
        trains = stage.tuning().trains
        flops = StepCost.of(model, train, context, teacher_flops, fresh=asked.fresh, trains=trains)
        if train.same_as is not None:
            train = _same_as(train, self.planned, self._told(), self.recipe)
        validated, tested = self._held_out(name, data, train)
        step_seconds = time.step_seconds(
            model, train, context, flops.mean, speed, trains=trains, held=self.held
        )
        limits = None
        if train.counts_steps:
            epoch = self._epoch(name, data) if train.epochs else None
            limits = Limits.of(train, train.batch * context, flops, name, epoch).steps
        if limits is not None:  # no weights are validated twice
            train = train.model_copy(update={"validations": min(train.validations, limits)})
        training = self._training(name, stage, train)
        validating = time.validation_seconds(model, train, validated, speed)
        steps, seconds = _steps_and_seconds(limits, train.time, step_seconds, validating)
        return StagePlan(
            name=name,
            model=ModelPlan.of(model, train, trains),
            steps=steps,
            tokens=steps and steps * train.batch * context,
            flops=steps and float(flops.total(steps)),
            seconds=seconds,
            memory=self._with_text(name, self._memory(name, training)),
            training=training,
            validating=min(validating, seconds or 0.0),
            scoring=sum(self._scoring_seconds(model, tested)),
        )

    def _running_teacher(self, stage: schema.TrainingStage) -> schema.Architecture | None:
        """Return the teacher that runs beside a student; None where it has told before."""
        references = stage.dependencies()
        return None if "told" in references else self.models.get(references.get("teacher", ""))

    def _training(
        self, name: str, stage: schema.TrainingStage, train: schema.Train
    ) -> PlannedTraining:
        """Return what decides the memory of a stage that trains so."""
        model = self.models[name]
        if isinstance(stage.data, schema.TaskData):  # validated as it learns, without gradients
            train = train.model_copy(update={"validations": 0})
        return PlannedTraining(
            model=model,
            train=train,
            context=stage.data.context,
            precision=self.machine.runtime.precision(train.products, model.dim),
            teacher=self._running_teacher(stage),
            objective=stage.objective if isinstance(stage, schema.Distill) else None,
            isolated=stage.data.documents == "isolated",
            trains=stage.tuning().trains,
            round=stage.round,
            round_layers=stage.round_layers,
        )

    def _memory(self, name: str, training: PlannedTraining) -> memory.PlannedMemory:
        """Return the memory of one training, counted in a dry run or estimated."""
        device = self.machine.runtime.device
        if self.dry_run:
            from flyweight.planning import dry_run  # loads torch

            self.watch("counting", {"what": f"memory of {name}, in a dry run"})
            try:
                return dry_run.training_memory(training, device)
            except dry_run.NOT_POSSIBLE as error:
                self.assumed.append(
                    f"{name}: memory is estimated by formulas, because a dry run met an operation "
                    f"that needs data ({type(error).__name__})"
                )
        return memory.training(
            training.model,
            training.train,
            training.context,
            4 if training.precision == "fp32" else 2,
            training.teacher,
            device,
            training.isolated,
            training.trains,
        )

    def _with_text(self, name: str, planned: memory.PlannedMemory) -> memory.PlannedMemory:
        """Return the memory of a training with what it reads ahead of a stream, beside a CPU's."""
        data = self.asked[name].data
        on_cpu = self.machine.runtime.device == "cpu"
        if not on_cpu or not isinstance(data, schema.Data) or data.stream is None:
            return planned
        return replace(planned, text=memory.stream_bytes(data.stream))

    def _held_out(
        self, name: str, data: schema.Data | schema.TaskData, train: schema.Train
    ) -> tuple[float, float]:
        """Return the tokens of the validation and the test split, where they are known."""
        if isinstance(data, schema.TaskData):
            size = self.tasks.get(name)
            if size is None:
                return float(train.validation_tokens), 0.0
            count = size.rows("validation", data, self._tokenizer_of_input(name))
            return float(count * data.context), 0.0
        text = self.sizes.get(rows.text_key(data))
        if text is None or data.tokenizer is None:
            return float(train.validation_tokens), 0.0
        return text.tokens("validation", data.tokenizer), text.tokens("test", data.tokenizer)

    def _epoch(self, name: str, data: schema.Data | schema.TaskData) -> int | None:
        """Return the rows of one epoch; remark where their number is an estimate or unknown."""
        if isinstance(data, schema.Data):
            return self._windows(name, data)
        size = self.tasks.get(name)
        if size is None:
            return None
        count = size.rows("train", data, self._tokenizer_of_input(name))
        if data.packing == "isolated":
            self.assumed.append(
                f"{name}: {count:,} rows an epoch hold {len(size.bytes['train']):,} examples, from "
                f"the size of their texts"
            )
        return count

    def _tokenizer_of_input(self, name: str) -> schema.Tokenizer | None:
        """Return the tokenizer of the model that a stage starts from, where the recipe tells."""
        source = self.trained.get(rows.root(self.recipe, name, self.trained))
        return None if source is None else source.data.tokenizer

    def _windows(self, name: str, data: schema.Data) -> int | None:
        """Return the windows of one epoch; remark where their number is an estimate or unknown."""
        tokens = self.packed_tokens.get(vocabulary_key(data))
        size = self.sizes.get(rows.text_key(data))
        if tokens is None and size is not None and data.tokenizer is not None:
            tokens = int(size.tokens("train", data.tokenizer))
            self.assumed.append(
                f"{name}: {format_count(tokens)} tokens an epoch, from the size of the text"
            )
        if tokens is None:
            self.assumed.append(
                f"{name}: how many steps an epoch has is known once {data.label} has been read"
            )
            return None
        return max(1, (tokens - 1) // data.context)

    def _scoring_seconds(self, model: schema.Architecture, tested: float) -> Iterable[float]:
        """Return the seconds of an evaluation and an audit of a model."""
        speed = self.machine.speed("fp32", self.recipe.budget.rate)
        return time.measuring_seconds(model, tested, speed, ("evaluate", "audit")).values()

    def plan(self) -> Plan:
        """Return the whole plan; raise RequestError with everything that is wrong."""
        if self.wrong:
            raise RequestError("\n".join(self.wrong))
        for name, asked in self.asked.items():
            self.planned[name] = self._stage_plan(name, asked)
        recipe, stages = self.recipe, tuple(self.planned.values())
        fittings = self._fittings()
        if self.held:
            self.assumed.append(
                f"budget.memory: freed memory goes back to the system at once; for that, steps are "
                f"counted as {time.HELD:g} times as long"
            )
        compared = recipe.report.compare or self.models
        evaluated = self._evaluations()
        smallest = _smallest([self.models[name] for name in compared if name in self.models])
        planned = Plan(
            name=recipe.name,
            stages=stages,
            assumed=tuple(dict.fromkeys(self.assumed)),
            faults=tuple(_faults(recipe, stages, smallest, fittings, evaluated)),
            fittings=fittings,
            beside=tuple(self.beside()),
            smallest=smallest,
            held=self.held,
            evaluated=evaluated,
            unread=tuple(self.unread.values()),
        )
        return replace(planned, warnings=tuple(_warnings(recipe, planned.totals["time"])))

    def _evaluations(self) -> dict[str, int]:
        """Return the bytes of evaluating each model; remark where fewer windows are read at once.

        Models that are not known before the recipe runs are left out.
        """
        recipe, device = self.recipe, self.machine.runtime.device
        found = dict[str, int]()
        compared = rows.compared(recipe) if "evaluate" in recipe.report.measure else ()
        for name in compared:
            if (model := self.models.get(name)) is None or model.vocab_size is None:
                continue
            batch = evaluating.windows_at_once(model, recipe.budget.memory, device)
            found[name] = evaluating.evaluation_bytes(model, batch, device=device)
            if batch < evaluating.WINDOWS_AT_ONCE:
                self.assumed.append(
                    f"evaluating {name} reads {batch} of its windows at once, to hold to "
                    f"budget.memory; without a limit it is {evaluating.WINDOWS_AT_ONCE}"
                )
        for stage in recipe.stages.values():
            model = self.models.get(stage.dependencies().get("input", ""))
            if isinstance(stage, schema.Evaluate) and model is not None and model.vocab_size:
                size = evaluating.evaluation_bytes(model, stage.batch, stage.window, device)
                found[stage.input] = max(size, found.get(stage.input, 0))
        return found

    def _fittings(self) -> dict[str, Fitting]:
        """Return what makes each stage fit that is over the limit of memory."""
        limit = self.recipe.budget.memory
        if limit is None or not self.dry_run:
            return {}
        return {
            name: fit(
                asked.stage,
                limit,
                partial(self._memory_of, name),
                partial(self._step_seconds, name, asked),
            )
            for name, asked in self.asked.items()
            if self.planned[name].memory.total > limit
        }

    def _memory_of(self, name: str, stage: schema.TrainingStage) -> memory.PlannedMemory:
        """Return the memory of a stage that is trained otherwise than it asks for."""
        return self._with_text(name, self._memory(name, self._training(name, stage, stage.train)))

    def _step_seconds(self, name: str, asked: _AskedTraining, stage: schema.TrainingStage) -> float:
        """Return the seconds of one of its steps."""
        model, train = self.models[name], stage.train
        speed = self.machine.training_speed(train, model.dim, self.recipe.budget.rate)
        teacher = self.models.get(stage.dependencies().get("teacher", ""))
        context = stage.data.context
        teacher_flops = 0 if teacher is None else cost.forward_flops(teacher, context)
        trains = stage.tuning().trains
        flops = StepCost.of(model, train, context, teacher_flops, fresh=asked.fresh, trains=trains)
        return time.step_seconds(
            model, train, context, flops.mean, speed, trains=trains, held=self.held
        )


def _input_faults(
    name: str, stage: schema.TrainingStage, source: schema.Architecture
) -> Iterator[str]:
    """Yield why a stage cannot train the model that it starts from, as the stage itself would."""
    if (
        isinstance(source, schema.ModelConfig)
        and source.adapters
        and stage.tuning().trains == "full"
    ):
        yield (
            f"stages.{name}.input: this model has adapters, which are trained by fine-tuning. "
            f"Merge them first (flyweight merge), or go on with flyweight finetune"
        )
    if source.context is not None and source.context < stage.data.context:
        yield (
            f"stages.{name}.data.context: {stage.data.context} is longer than the "
            f"{source.context} tokens that the input reads at once"
        )


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


def _ancestors(recipe: schema.Recipe, name: str) -> set[str]:
    """Return the stages of a recipe that one is made from, directly or not."""
    found = set[str]()
    new = {name}
    while new:
        parents = {ref for each in new for ref in recipe.stages[each].dependencies().values()}
        new = (parents & recipe.stages.keys()) - found
        found |= new
    return found


def _same_as(
    train: schema.Train,
    found: Mapping[str, StagePlan],
    told: Mapping[str, Mapping[str, float]],
    recipe: schema.Recipe,
) -> schema.Train:
    """Return the limit that `same_as` probably means, from the other stage's plan.

    `told` are the FLOPs and seconds of records of teachers, which `total_*` includes.
    """
    other = found.get(train.same_as.stage) if train.same_as else None
    if other is None or train.same_as is None:
        return train
    what = train.same_as.of
    value: float | None = getattr(other, what.removeprefix("total_"))
    if value is not None and what.startswith("total_"):
        before, quantity = _ancestors(recipe, other.name), what.removeprefix("total_")
        value += sum(getattr(found[ref], quantity) or 0 for ref in before & found.keys())
        value += sum(told[ref][quantity] for ref in before & told.keys())
    if value is None:
        return train
    key = {"tokens": "tokens", "flops": "flops", "seconds": "time"}[what.removeprefix("total_")]
    return train.model_copy(update={key: value if key == "time" else round(value)})


def _faults(
    recipe: schema.Recipe,
    stages: tuple[StagePlan, ...],
    smallest: Mapping[str, float],
    fittings: Mapping[str, Fitting],
    evaluated: Mapping[str, int],
) -> list[str]:
    """Return every limit of the budget that the plan already breaks."""
    limits, faults = recipe.budget, []
    if stages:
        largest = max(stages, key=lambda stage: stage.memory.total)
        if limits.memory is not None and largest.memory.total > limits.memory:
            faults.append(_memory_fault(largest, limits.memory, fittings.get(largest.name)))
    faults += _evaluation_faults(limits.memory, evaluated, fittings)
    flops = sum(stage.flops or 0.0 for stage in stages)
    if limits.flops is not None and flops > limits.flops:
        faults.append(
            f"budget.flops: {format_count(limits.flops)}, but training takes "
            f"{format_count(flops)}: lower train.steps, or give it budget.flops={count_word(flops)}"
        )
    if limits.parameters is not None and smallest.get("parameters", 0) > limits.parameters:
        least = format_count(smallest["parameters"])
        faults.append(
            f"budget.parameters: {format_count(limits.parameters)}, but the smallest model has "
            f"{least}: lower model.dim or model.layers, or give it budget.parameters="
            f"{count_word(smallest['parameters'])}"
        )
    if limits.bytes is not None and smallest.get("bytes", 0) > limits.bytes:
        least = format_size(smallest["bytes"])
        faults.append(
            f"budget.bytes: {format_size(limits.bytes)}, but the smallest model takes {least}: add "
            "a quantize stage to what is compared, or lower model.dim or the tokenizer's vocab, or "
            f"give it budget.bytes={size_word(smallest['bytes'])}"
        )
    return faults


def _evaluation_faults(
    limit: float | None, evaluated: Mapping[str, int], fittings: Mapping[str, Fitting]
) -> Iterator[str]:
    """Yield that the largest evaluation is over the limit of memory, or of what trainings fit."""
    if limit is None or not evaluated:
        return
    name = max(evaluated, key=lambda each: evaluated[each])
    needed = evaluated[name]
    if needed > max(limit, *(fitting.memory.total for fitting in fittings.values()), 0):
        yield (
            f"budget.memory: {format_size(limit)}, but evaluating {name} takes about "
            f"{format_size(needed)}: a smaller data.context or model, fewer windows (batch of an "
            f"evaluate stage), or budget.memory={size_word(needed)}"
        )


def _memory_fault(stage: StagePlan, limit: float, fitting: Fitting | None) -> str:
    """Return by how much a stage is over the limit of memory, and what would make it fit."""
    over = (
        f"budget.memory: {format_size(limit)}, but {stage.name} needs about "
        f"{format_size(stage.memory.total)}, {format_size(stage.memory.total - limit)} more"
    )
    beneath = memory.beneath_all(limit, stage.memory.libraries)
    advice = "raise train.accumulate or lower train.batch"
    if fitting is not None:
        advice = fitting.advice(stage.name)
    return f"{over}: {beneath}; {advice}" if beneath else f"{over}: {advice}"


def _warnings(recipe: schema.Recipe, seconds: float) -> list[str]:
    limit = recipe.budget.time
    if limit is None or seconds <= limit:
        return []
    return [
        f"budget.time: {format_time(limit)}, but it will take about {format_time(seconds)} on this "
        "machine as busy as it is: lower train.steps, or give it more time"
    ]
