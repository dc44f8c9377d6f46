"""Running a study of fine-tuning: bases, their scores, every method for each seed, controls."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.config import schema
from flyweight.config.metrics import metric_kind
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.tuning_study import TuningStudy
from flyweight.core import machine
from flyweight.core.student import student, two_sided_p
from flyweight.data.document import SplitName
from flyweight.data.tasks.files import reported_split
from flyweight.errors import DivergedError, RequestError
from flyweight.evaluation.compare import holm
from flyweight.pipeline.recipe import Resolver
from flyweight.pipeline.runner import Runner
from flyweight.planning import dry_run
from flyweight.planning.grid import GridPlan
from flyweight.planning.recipe_plan import StagePlan
from flyweight.records.difference import Difference
from flyweight.records.run_summary import Environment
from flyweight.records.scores import TaskScores
from flyweight.records.study_summary import LEAST_SEEDS
from flyweight.records.training_cost import TrainingCost
from flyweight.records.tuning_study import (
    BaseScores,
    DevelopmentLoss,
    MethodComparison,
    StudiedBase,
    StudiedTask,
    TunedCell,
    TunedRun,
    TuningStudySummary,
)
from flyweight.reports import gather
from flyweight.spec import flops
from flyweight.store.artifact import Artifact
from flyweight.store.stage import Context

CURVE_POINTS = 64
"""Points of a curve that the summary keeps at most."""


@dataclass
class _Bases:
    """The models that the study fine-tunes, made once with its first seed."""

    study: TuningStudy
    runner: Runner
    resolve: Resolver
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def make(self) -> None:
        """Make or find every base, in the study's order."""
        for name, base in self.study.bases.items():
            where = f"bases.{name}"
            if base.model is not None:
                self.artifacts[name] = self.resolve(base.model, f"{where}.model")
                continue
            assert base.made is not None
            inputs = {
                role: self.artifacts[word]
                if word in self.artifacts
                else self.resolve(word, f"{where}.{role}")
                for role, word in base.made.dependencies().items()
            }
            self.artifacts[name] = self.runner.make(name, base.made, inputs).artifact

    def own_nll(self, name: str, model: Artifact, runner: Runner) -> float | None:
        """Return a model's loss on the own text of a base, nats per token; None without a text."""
        text = self.study.text(name)
        if text is None and "corpus" not in self.artifacts[name].facts:
            return None
        if text is None:
            text = _text_of(self.artifacts[name])
        if text is None:
            return None
        config = schema.Evaluate(stage="evaluate", input=name, data=text)
        measured = runner.make(f"own text of {name}", config, {"input": model}).artifact.metrics()
        return float(measured["nll"]["value"])

    def studied(self, name: str) -> StudiedBase:
        """Return what the summary says of a base."""
        artifact = self.artifacts[name]
        config = load_any.own_config(artifact.path / "model", f"bases.{name}")
        return StudiedBase(
            name=name,
            id=artifact.id,
            config_line=gather.config_line(config),
            parameters=flops.parameters(config).unique,
            stored_bytes=_model_bytes(artifact),
            total_flops=float(artifact.facts.get("total_flops", 0.0)),
            own_text=self._own_text(name),
            own_nll=self.own_nll(name, artifact, self.runner),
        )

    def _own_text(self, name: str) -> str:
        text = self.study.text(name) or _text_of(self.artifacts[name])
        return "" if text is None else text.label


def _text_of(artifact: Artifact) -> schema.Data | None:
    """Return the text that a model was trained on, where its packed corpus is there."""
    name = artifact.facts.get("corpus")
    if name is None or not (artifact.path.parent / name).is_dir():
        return None
    packed = Artifact.open(artifact.path.parent / name)
    if packed.stage != "corpus":
        return None
    window = load_any.window(load_any.config(artifact.path / "model"))
    fields = {**packed.identity["config"], "context": window}
    return schema.Data.model_validate(fields, context={"resolved": True})


def _model_bytes(artifact: Artifact) -> int:
    files = artifact.manifest["files"]
    return sum(entry["bytes"] for name, entry in files.items() if name.startswith("model/"))


@dataclass
class _Grid:
    """Makes the runs of a study: one runner for each seed."""

    study: TuningStudy
    context: Context
    bases: _Bases
    plans: Mapping[str, StagePlan]
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    spent: dict[tuple[str, str, int], float] = field(default_factory=dict)
    """FLOPs of full fine-tuning by base, task and seed, with the base's own."""

    def runner(self, seed: int) -> Runner:
        """Return the runner of a seed."""
        runtime = replace(self.context.runtime, seed=seed)
        return Runner(replace(self.context, runtime=runtime), self.bases.runner.corpora)

    def score(self, name: str, task: str, model: Artifact, seed: int) -> Artifact:
        """Return a model's answers to a task, made now or found."""
        data, asked = self.study.tasks[task], self.study.score
        config = schema.Score(
            stage="score",
            input=name,
            task=data.task,
            split=scored_split(self.study, task, self.context.data_dir),
            limit=asked.limit,
            new_tokens=asked.new_tokens,
            window=data.context,
            bad_rows=data.bad_rows,
        )
        return self.runner(seed).make(f"{name}, {task}", config, {"input": model}).artifact

    def cell(self, base: str, method: str, task: str) -> TunedCell:
        """Return a condition with its runs; memory is measured with the first seed."""
        config = self.study.finetune(base, method, task)
        runs = [self._run(config, base, method, task, seed) for seed in self.study.seeds]
        first = next((run for run in runs if run.id is not None), None)
        trainable, added, cost = 0, 0, None
        if first is not None and first.id is not None:
            artifact = Artifact.open(self.context.store.root / first.id)
            facts = artifact.facts
            trainable, added = facts["trainable_parameters"], facts["trainable_bytes"]
            cost = self._cost(artifact, first.seed)
        return TunedCell(
            base=base,
            method=method,
            task=task,
            about=_about(config),
            trainable=trainable,
            added_bytes=added,
            cost=cost,
            planned_bytes=self._planned(f"{method} on {base}, {task}"),
            runs=tuple(runs),
        )

    def _planned(self, cell: str) -> int | None:
        """Return the bytes that a condition is planned with; None for an unplanned one."""
        if cell not in self.plans:
            return None
        return dry_run.counted_stage(self.plans[cell], self.context.runtime.device).memory.total

    def _cost(self, artifact: Artifact, seed: int) -> TrainingCost:
        config = schema.TrainingMemory(stage="memory", input=artifact.id)
        made = self.runner(seed).make(artifact.id, config, {"input": artifact})
        return TrainingCost.from_metrics(made.artifact.metrics())

    def _run(
        self, config: schema.Finetune, base: str, method: str, task: str, seed: int
    ) -> TunedRun:
        name = f"{method} on {base}, {task}, seed {seed}"
        self._tell()
        if self.study.methods[method].scratch:
            if not self.spent.get((base, task, seed)):
                self.done += 1
                why = "full fine-tuning, whose cost it would spend, has no result with this seed"
                return TunedRun(seed=seed, id=None, why=why)
            config = self.study.finetune(base, method, task, self.spent[base, task, seed])
        try:
            result = self.runner(seed).make(name, config, {"input": self.bases.artifacts[base]})
        except DivergedError as error:
            self.done += 1
            self.context.watch("diverged", {"name": name})
            why = str(error).removeprefix(f"{name}: ").partition(";")[0]
            return TunedRun(seed=seed, id=None, why=why)
        self.done += 1
        artifact, facts = result.artifact, result.artifact.facts
        if config.method.kind == "full" and config.start == "input":
            self.spent[base, task, seed] = float(facts["total_flops"])
        scored = self.score(name, task, artifact, seed)
        scores = TaskScores.from_metrics(scored.metrics())
        curve, train_nll = _curve(artifact.path / "events.jsonl")
        return TunedRun(
            seed=seed,
            id=artifact.id,
            score=scored.id,
            **{key: facts[key] for key in ("steps", "tokens", "flops", "seconds")},
            train_nll=train_nll,
            validation_nll=facts.get("best_nll"),
            retained_nll=self.bases.own_nll(base, artifact, self.runner(seed)),
            metrics={key: metric.value for key, metric in scores.metrics.items()},
            standing=scores.standing,
            curve=curve,
        )

    def _tell(self) -> None:
        """Say which run comes next and when all will be done."""
        of = self.study.run_count
        speed = (time.monotonic() - self.began) / self.done if self.done else 0.0
        left = speed * (of - self.done)
        self.context.watch("grid", {"run": self.done + 1, "of": of, "left": left})


def _curve(path: Path) -> tuple[tuple[DevelopmentLoss, ...], float | None]:
    """Return the validations of a training, and the mean loss of its last tenth."""
    curve = gather.training_curve(path)
    stride = max(1, math.ceil(len(curve.validation) / CURVE_POINTS))
    losses = tuple(
        DevelopmentLoss(step=each.step, seconds=each.seconds, nll=each.nll)
        for each in curve.validation[::stride]
    )
    tail = curve.train_nll[-max(1, len(curve.train_nll) // 10) :]
    return losses, math.fsum(tail) / len(tail) if tail else None


def _about(config: schema.Finetune) -> str:
    """Return a method with its options in a line."""
    if config.start == "random":
        return "new random weights, for the FLOPs of base and full fine-tuning together"
    options = config.method.model_dump(exclude_defaults=True, exclude={"kind"})
    shown = ", ".join(f"{name} {value}" for name, value in options.items())
    rate = f"lr {config.train.optimizer.lr:g}"
    return ", ".join(part for part in (config.method.kind, shown, rate) if part)


def scored_split(study: TuningStudy, task: str, data_dir: Path | None) -> SplitName:
    """Return the split of a task that is scored.

    Raises RequestError where its rows would choose the kept step and be scored as well.
    """
    reported = reported_split(study.tasks[task].task, data_dir)
    split = study.score.split or reported
    chosen_by = any(
        study.finetune(*condition).train.keep == "best"
        for condition in study.conditions()
        if condition[2] == task
    )
    if split == "validation" and reported == "test" and chosen_by:
        raise RequestError(
            f"score.split: the validation rows of {task} choose the kept step; score the test "
            f"split, or give train.keep=last"
        )
    return split


def run(
    study: TuningStudy, context: Context, resolve: Resolver, planned: GridPlan
) -> TuningStudySummary:
    """Make every base and run that is not there yet, measure it, and return the summary.

    Raises RequestError before any work for a task that cannot be read or scored as asked. It does
    so before any fine-tuning where the own text of a base cannot be read.
    """
    for task in study.tasks:
        scored_split(study, task, context.data_dir)
    seed = study.seeds[0]
    first = Runner(replace(context, runtime=replace(context.runtime, seed=seed)))
    bases = _Bases(study, first, resolve)
    bases.make()
    studied = tuple(bases.studied(name) for name in study.bases)
    plans = {cell.name: cell.stage for cell in planned.cells}
    grid = _Grid(study, context, bases, plans)
    untouched = {
        (base, task): grid.score(base, task, bases.artifacts[base], seed)
        for task in study.tasks
        for base in study.bases
    }
    cells = [grid.cell(*condition) for condition in study.conditions()]
    scores = {key: TaskScores.from_metrics(each.metrics()) for key, each in untouched.items()}
    return TuningStudySummary(
        name=study.name,
        about=study.about,
        seeds=study.seeds,
        limit_line=_limit_line(study),
        created=gather.now(),
        command=context.command,
        seconds=context.meter.seconds(),
        environment=Environment(
            **machine.describe(context.runtime.device, context.runtime.threads)
        ),
        bases=studied,
        tasks=tuple(_task(study, name, scores) for name in study.tasks),
        untouched=tuple(
            BaseScores(
                base=base,
                task=task,
                id=untouched[base, task].id,
                metrics=each.metrics,
                standing=each.standing,
            )
            for (base, task), each in scores.items()
        ),
        cells=tuple(cells),
        comparisons=tuple(
            comparisons(
                cells, {name: _decides(scores, name) for name in study.tasks}, study.whole_methods
            )
        ),
    )


def _decides(scores: Mapping[tuple[str, str], TaskScores], task: str) -> str:
    return next(each.decides for (_, name), each in scores.items() if name == task)


def _task(
    study: TuningStudy, name: str, scores: Mapping[tuple[str, str], TaskScores]
) -> StudiedTask:
    of_task = next(each for (_, task), each in scores.items() if task == name)
    notes = [of_task.division] if of_task.division else []
    for (base, task), each in scores.items():
        if task == name and each.cut_prompts:
            notes.append(f"{base}: {each.cut_prompts} of {each.rows} prompts lost their beginning")
    return StudiedTask(
        name=name,
        about=of_task.origin,
        decides=of_task.decides,
        better=metric_kind(of_task.decides).better,
        shown=of_task.shown,
        rows=of_task.rows,
        contexts=of_task.contexts,
        floor=of_task.floor,
        floor_about=of_task.floor_about,
        floor_metrics=of_task.floor_metrics,
        notes=tuple(notes),
    )


def _limit_line(study: TuningStudy) -> str:
    """Return how long every method trains, in words."""
    limits = {key: study.train[key] for key in LIMITS if study.train.get(key)}
    ((name, value),) = limits.items()
    length = f"{value} of training" if name == "time" else f"{value} {name}"
    return f"every method trains for {length}"


def comparisons(
    cells: Sequence[TunedCell], decides: Mapping[str, str], whole: Sequence[str]
) -> list[MethodComparison]:
    """Return every method against full fine-tuning, on each base and task, seed by seed.

    `decides` names each task's metric, `whole` the methods that train every weight of the base; the
    first of them is the one to compare with. The p-values are corrected together (Holm).
    """
    full: dict[tuple[str, str], TunedCell] = {}
    for cell in cells:
        if cell.method in whole:
            full.setdefault((cell.base, cell.task), cell)
    made = [
        _compared(cell, full[cell.base, cell.task], decides[cell.task])
        for cell in cells
        if (cell.base, cell.task) in full and cell is not full[cell.base, cell.task]
    ]
    tested = [place for place, each in enumerate(made) if each.p is not None]
    corrected = dict(zip(tested, holm([made[place].p or 0.0 for place in tested]), strict=True))
    return [
        each.model_copy(update={"p_corrected": corrected.get(place)})
        for place, each in enumerate(made)
    ]


def _compared(cell: TunedCell, full: TunedCell, metric: str) -> MethodComparison:
    ours, theirs = (
        {run.seed: run.metrics[metric] for run in each.finished if metric in run.metrics}
        for each in (cell, full)
    )
    seeds = sorted(set(ours) & set(theirs))
    fields: dict[str, Any] = {
        "base": cell.base,
        "task": cell.task,
        "method": cell.method,
        "against": full.method,
        "n": len(seeds),
    }
    if len(seeds) < LEAST_SEEDS:
        return MethodComparison(**fields, difference=None)
    mean, low, high = student([ours[seed] - theirs[seed] for seed in seeds])
    kind = metric_kind(metric)
    difference = Difference.of(mean, low, high, kind.unit, kind.better)
    return MethodComparison(
        **fields, difference=difference, p=two_sided_p(mean, high - mean, len(seeds))
    )
