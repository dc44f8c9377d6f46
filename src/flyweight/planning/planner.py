"""Plan a recipe before anything runs: the needs of its stages, its time, and its budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from flyweight.config import schema
from flyweight.core.events import Watcher, ignore
from flyweight.errors import RequestError
from flyweight.planning import evaluating, memory, rows, time
from flyweight.planning.budget import limitless, shared_time
from flyweight.planning.described_recipe import AskedTraining, DescribedRecipe
from flyweight.planning.faults import budget_faults, smallest_of, warnings
from flyweight.planning.fitting import Fitting, fit
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.recipe_plan import Plan, StagePlan
from flyweight.planning.same_cost import with_same_cost
from flyweight.planning.text_size import local_text_size, text_size
from flyweight.planning.time import Machine, MachineSpeed
from flyweight.spec import flops as cost
from flyweight.training.limits import Limits
from flyweight.training.planned_training import PlannedTraining
from flyweight.training.step_cost import StepCost


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
    described = DescribedRecipe(
        recipe,
        data_dir,
        local_text_size,
        vocabularies or {},
        packed_tokens or {},
        models=dict(known),
    )
    if dry_run is None:
        dry_run = recipe.budget.memory is not None
    return _Planner(described, machine, dry_run, watch).plan()


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
    described = DescribedRecipe(recipe, data_dir, text_size)
    rows = described.beside(machine.speed("fp32", recipe.budget.rate))
    before = sum(row.seconds for row in rows if row.kind == "packing")
    after = sum(row.seconds for row in rows if row.kind != "packing")
    return shared_time(recipe, before + after), after


@dataclass
class _Planner:
    """Plans the trainings of a described recipe, each after what it refers to."""

    described: DescribedRecipe
    machine: Machine
    dry_run: bool = False
    watch: Watcher = ignore
    planned: dict[str, StagePlan] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether freed memory goes back to the system at once, to hold a limit of memory."""
        limited = self.described.recipe.budget.memory is not None
        return limited and self.machine.runtime.device == "cpu"

    @property
    def speed(self) -> MachineSpeed:
        """How fast this machine does other work than training."""
        return self.machine.speed("fp32", self.described.recipe.budget.rate)

    def _stage_plan(self, name: str, asked: AskedTraining) -> StagePlan:
        """Return what one training will need: steps, FLOPs, seconds, memory."""
        stage = asked.stage
        model, data = self.described.models[name], asked.data
        train, context = stage.train, data.context
        speed = self.machine.training_speed(train, model.dim, self.described.recipe.budget.rate)
        flops = self._step_cost(name, asked, stage)
        step_seconds = self._step_seconds(name, asked, stage)
        if train.same_as is not None:
            told = self.described.told(self.speed)
            train = with_same_cost(train, self.planned, told, self.described.recipe)
        validated, tested = self.described.held_out(name, data, train)
        limits = None
        if train.counts_steps:
            epoch = self.described.epoch(name, data) if train.epochs else None
            limits = Limits.of(train, train.batch * context, flops, name, epoch).steps
        if limits is not None:  # no weights are validated twice
            train = train.model_copy(update={"validations": min(train.validations, limits)})
        training = self._training(name, stage, train)
        validating = time.validation_seconds(model, train, validated, speed)
        steps, seconds = _steps_and_seconds(limits, train.time, step_seconds, validating)
        return StagePlan(
            name=name,
            model=ModelPlan.of(model, train, stage.tuning().trains),
            steps=steps,
            tokens=steps and steps * train.batch * context,
            flops=steps and float(flops.total(steps)),
            seconds=seconds,
            memory=self._with_text(name, self._memory(name, training)),
            training=training,
            validating=min(validating, seconds or 0.0),
            scoring=sum(self._scoring_seconds(model, tested)),
        )

    def _training(
        self, name: str, stage: schema.TrainingStage, train: schema.Train
    ) -> PlannedTraining:
        """Return what decides the memory of a stage that trains so."""
        model = self.described.models[name]
        if isinstance(stage.data, schema.TaskData):  # validated as it learns, without gradients
            train = train.model_copy(update={"validations": 0})
        return PlannedTraining(
            model=model,
            train=train,
            context=stage.data.context,
            precision=self.machine.runtime.precision(train.products, model.dim),
            teacher=self.described.running_teacher(stage),
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
                self.described.assumed.append(
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
        data = self.described.asked[name].data
        on_cpu = self.machine.runtime.device == "cpu"
        if not on_cpu or not isinstance(data, schema.Data) or data.stream is None:
            return planned
        return replace(planned, text=memory.stream_bytes(data.stream))

    def _scoring_seconds(self, model: schema.Architecture, tested: float) -> Iterable[float]:
        """Return the seconds of an evaluation and an audit of a model."""
        return time.measuring_seconds(model, tested, self.speed, ("evaluate", "audit")).values()

    def plan(self) -> Plan:
        """Return the whole plan; raise RequestError with everything that is wrong."""
        if self.described.wrong:
            raise RequestError("\n".join(self.described.wrong))
        for name, asked in self.described.asked.items():
            self.planned[name] = self._stage_plan(name, asked)
        recipe, stages = self.described.recipe, tuple(self.planned.values())
        fittings = self._fittings()
        if self.held:
            self.described.assumed.append(
                f"budget.memory: freed memory goes back to the system at once; for that, steps are "
                f"counted as {time.HELD:g} times as long"
            )
        elif stages and self.machine.runtime.device == "cpu":
            self.described.assumed.append(
                "memory is what is in use; without budget.memory freed blocks are kept for later, "
                "and up to 1.8 times as much was held"
            )
        models = self.described.models
        compared = recipe.report.compare or models
        evaluated = self._evaluations()
        smallest = smallest_of([models[name] for name in compared if name in models])
        planned = Plan(
            name=recipe.name,
            stages=stages,
            assumed=tuple(dict.fromkeys(self.described.assumed)),
            faults=tuple(budget_faults(recipe, stages, smallest, fittings, evaluated)),
            fittings=fittings,
            beside=tuple(self.described.beside(self.speed)),
            smallest=smallest,
            held=self.held,
            evaluated=evaluated,
            unread=tuple(self.described.unread.values()),
        )
        return replace(planned, warnings=tuple(warnings(recipe, planned.totals["time"])))

    def _evaluations(self) -> dict[str, int]:
        """Return the bytes of evaluating each model; remark where fewer windows are read at once.

        Models that are not known before the recipe runs are left out.
        """
        recipe, device = self.described.recipe, self.machine.runtime.device
        found = dict[str, int]()
        compared = rows.compared(recipe) if "evaluate" in recipe.report.measure else ()
        for name in compared:
            if (model := self.described.models.get(name)) is None or model.vocab_size is None:
                continue
            batch = evaluating.windows_at_once(model, recipe.budget.memory, device)
            found[name] = evaluating.evaluation_bytes(model, batch, device=device)
            if batch < evaluating.WINDOWS_AT_ONCE:
                self.described.assumed.append(
                    f"evaluating {name} reads {batch} of its windows at once, to hold to "
                    f"budget.memory; without a limit it is {evaluating.WINDOWS_AT_ONCE}"
                )
        for stage in recipe.stages.values():
            model = self.described.models.get(stage.dependencies().get("input", ""))
            if isinstance(stage, schema.Evaluate) and model is not None and model.vocab_size:
                size = evaluating.evaluation_bytes(model, stage.batch, stage.window, device)
                found[stage.input] = max(size, found.get(stage.input, 0))
        return found

    def _fittings(self) -> dict[str, Fitting]:
        """Return what makes each stage fit that is over the limit of memory."""
        limit = self.described.recipe.budget.memory
        if limit is None or not self.dry_run:
            return {}
        return {
            name: fit(
                asked.stage,
                limit,
                partial(self._memory_of, name),
                partial(self._step_seconds, name, asked),
            )
            for name, asked in self.described.asked.items()
            if self.planned[name].memory.total > limit
        }

    def _memory_of(self, name: str, stage: schema.TrainingStage) -> memory.PlannedMemory:
        """Return the memory of a stage that is trained otherwise than it asks for."""
        return self._with_text(name, self._memory(name, self._training(name, stage, stage.train)))

    def _step_cost(self, name: str, asked: AskedTraining, stage: schema.TrainingStage) -> StepCost:
        """Return the FLOPs of its steps, with those of a teacher that runs beside them."""
        context = stage.data.context
        teacher = self.described.running_teacher(stage)
        return StepCost.of(
            self.described.models[name],
            stage.train,
            context,
            0 if teacher is None else cost.forward_flops(teacher, context),
            fresh=asked.fresh,
            trains=stage.tuning().trains,
        )

    def _step_seconds(self, name: str, asked: AskedTraining, stage: schema.TrainingStage) -> float:
        """Return the seconds of one of its steps."""
        model, train = self.described.models[name], stage.train
        return time.step_seconds(
            model,
            train,
            stage.data.context,
            self._step_cost(name, asked, stage).mean,
            self.machine.training_speed(train, model.dim, self.described.recipe.budget.rate),
            trains=stage.tuning().trains,
            held=self.held,
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
