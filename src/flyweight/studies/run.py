"""Running a study: every run is an ordinary artifact; then the summary with its findings."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flyweight.config import load as config_load, schema, study as config
from flyweight.config.metrics import scored
from flyweight.core import machine
from flyweight.errors import DivergedError, FlyweightError, RequestError
from flyweight.pipeline.runner import Runner
from flyweight.planning import dry_run
from flyweight.planning.grid import GridPlan
from flyweight.planning.recipe_plan import StagePlan
from flyweight.records.audit import AuditResult
from flyweight.records.likelihood import Likelihood
from flyweight.records.run_summary import CorpusSummary, Environment
from flyweight.records.study_summary import CellSummary, RunSummary, StudySummary
from flyweight.reports import gather
from flyweight.spec import flops
from flyweight.store.artifact import Artifact
from flyweight.store.stage import Context
from flyweight.studies.cells import StudyCell, cells, left_out, misfits, texts
from flyweight.studies.claims import evaluate_claim

CHECKS = ("finite_outputs", "causality", "initial_token_sensitivity")
"""The checks of the audit that every run has to pass.

The unigram floor is compared on the whole test split.
"""

COLLAPSE = ("initial_token_sensitivity",)


@dataclass
class _Clock:
    """Tells how far a grid is: the planned seconds left, at the speed of what was done."""

    context: Context
    left: list[float]
    of: int = 0
    planned: float = 0.0
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.of = len(self.left)

    def tell(self) -> None:
        """Say which run comes next and when all will be done."""
        speed = self.spent / self.planned if self.planned else 1.0
        fields = {
            "run": self.of - len(self.left) + 1,
            "of": self.of,
            "left": speed * sum(self.left),
        }
        self.context.watch("grid", fields)

    def passed(self, began: float, reused: bool) -> None:
        """Count a run that is finished; what was there before says nothing of the speed."""
        planned = self.left.pop(0)
        if not reused:
            self.planned, self.spent = self.planned + planned, self.spent + time.monotonic() - began


@dataclass
class _Grid:
    """Makes the runs of a study: one runner for each seed, all on the same packed texts."""

    study: config.Study
    context: Context
    clock: _Clock
    plans: Mapping[str, StagePlan]
    corpora: dict[str, Artifact] = field(default_factory=dict)

    def runner(self, seed: int) -> Runner:
        """Return the runner of a seed."""
        context = replace(self.context, runtime=replace(self.context.runtime, seed=seed))
        return Runner(context, self.corpora)

    def texts(self, grid: Sequence[StudyCell]) -> tuple[dict[str, Artifact], dict[str, str]]:
        """Return the packed texts by name, and why an optional one is left out."""
        packed, missing = {}, {}
        for name, data in texts(grid).items():
            try:
                packed[name] = self.runner(self.study.seeds[0]).corpus(data)
            except FlyweightError as error:
                if not self.study.data[name].optional:
                    raise
                missing[name] = str(error)
                self.context.watch("left out", {"name": name, "why": str(error)})
        return packed, missing

    def floors(self, packed: Artifact, context: int) -> Artifact:
        """Return the n-gram floors of a packed text."""
        fields = {**packed.identity["config"], "context": context}
        data, runner = (
            schema.Data.model_validate(fields, context={"resolved": True}),
            self.runner(self.study.seeds[0]),
        )
        runner.register_corpus(data, packed)
        return runner.make("floors", schema.Floors(stage="floors", data=data), {}).artifact

    def cell(self, cell: StudyCell, packed: Artifact, unigram: float) -> CellSummary:
        """Return a cell with its runs: the sweep with one seed, the chosen rate with every seed."""
        rates, first = self.study.rates(), self.study.seeds[0]
        sweep = [self._trained(cell, first, lr) for lr in rates]
        chosen = min(
            sweep, key=lambda run: float("inf") if run.validation is None else run.validation
        )
        lr = chosen.lr
        runs = [run if run is chosen else run.model_copy(update={"chosen": False}) for run in sweep]
        runs += [self._trained(cell, seed, lr) for seed in self.study.seeds[1:]]
        vocabulary = packed.facts["vocab_size"]
        assert cell.config.model is not None
        model = config_load.resolved(cell.config.model, cell.name, vocabulary, cell.context)
        return CellSummary(
            name=cell.name,
            model=cell.model,
            family=self.study.models[cell.model].family
            or re.sub(r"[-_.]?\d+r?$", "", cell.model)
            or cell.model,
            fields=dict(cell.fields),
            data=cell.data,
            context=cell.context,
            budget=cell.budget,
            config_line=gather.config_line(model),
            parameters=flops.parameters(model).unique,
            lr=lr if lr is not None else cell.config.train.optimizer.lr,
            memory_planned=self._planned(cell),
            at_edge=len(rates) > 1 and lr in (min(rates, key=_number), max(rates, key=_number)),
            runs=tuple(
                self._tested(cell, run, unigram) if run.chosen and run.id else run for run in runs
            ),
        )

    def _planned(self, cell: StudyCell) -> int | None:
        """Return the bytes that a cell's trainings are planned with; None for an unplanned one."""
        stage = self.plans.get(cell.name)
        if stage is None:
            return None
        return dry_run.counted_stage(stage, self.context.runtime.device).memory.total

    def _trained(self, cell: StudyCell, seed: int, lr: float | None) -> RunSummary:
        self.clock.tell()
        began, name = time.monotonic(), _run_name(cell, seed, lr)
        try:
            result = self.runner(seed).make(name, cell.at(lr), {})
        except DivergedError as error:
            self.clock.passed(began, reused=False)
            self.context.watch("diverged", {"name": name})
            why = str(error).removeprefix(f"{name}: ").partition(";")[0]
            return RunSummary(seed=seed, lr=lr, id=None, standing="collapsed", why=why)
        self.clock.passed(began, result.reused)
        facts = result.artifact.facts
        numbers = {key: facts[key] for key in ("steps", "tokens", "flops", "seconds")}
        return RunSummary(
            seed=seed,
            lr=lr,
            id=result.artifact.id,
            validation=facts["best_nll"],
            memory_used=facts.get("memory_used"),
            **numbers,
        )

    def _tested(self, cell: StudyCell, run: RunSummary, unigram: float) -> RunSummary:
        """Return a run with its test metrics and whether they are a result."""
        assert run.id is not None
        artifact, runner = Artifact.open(self.context.store.root / run.id), self.runner(run.seed)
        name, inputs = _run_name(cell, run.seed, run.lr), {"input": artifact}
        asked = scored(self.study.metrics)
        evaluate = schema.Evaluate(stage="evaluate", input=name, metrics=asked)
        evaluation = runner.make(name, evaluate, inputs).artifact
        audit = runner.make(
            name, schema.Audit(stage="audit", input=name, checks=CHECKS), inputs
        ).artifact
        measured = Likelihood.from_metrics(evaluation.metrics())
        metrics = {key: _value(measured, key) for key in self.study.metrics}
        update = {"evaluation": evaluation.id, "metrics": metrics}
        nll = measured.nll.value
        if not nll < unigram:
            why = f"{nll:.3f} nats per token is no better than the unigram floor ({unigram:.3f})"
            return run.model_copy(update={**update, "standing": "collapsed", "why": why})
        for check in AuditResult.from_metrics(audit.metrics()).checks:
            if check.verdict == "fail":
                why = f"the audit's check {check.name.replace('_', ' ')} fails"
                if check.measured is not None:
                    why += f" ({check.measured:.3g} against {check.bound:.3g})"
                standing = "collapsed" if check.name in COLLAPSE else "invalid"
                return run.model_copy(update={**update, "standing": standing, "why": why})
        return run.model_copy(update=update)


def _value(measured: Likelihood, metric: str) -> float:
    found = measured.metric(metric)
    if found is None:
        raise FlyweightError(f"the evaluation did not measure {metric}")
    return found.value


def _number(value: float | None) -> float:
    return value or 0.0


def _run_name(cell: StudyCell, seed: int, lr: float | None) -> str:
    return f"{cell.name}, seed {seed}" + ("" if lr is None else f", lr {lr:g}")


def run(study: config.Study, context: Context, planned: GridPlan) -> StudySummary:
    """Make every run of a study that is not there yet, measure it, and return the summary."""
    grid = cells(study)[0]
    seconds = {cell.name: cell.seconds for cell in planned.cells}
    plans = {cell.name: cell.stage for cell in planned.cells}
    work = _Grid(study, context, _Clock(context, []), plans)
    packed, missing = work.texts(grid)
    grid = [cell for cell in grid if cell.data in packed]
    if not grid:
        raise RequestError(
            f"{study.name}: none of its texts is there: {'; '.join(missing.values())}"
        )
    _check(study, grid, packed)
    runs_of_cell = len(study.seeds) + len(study.rates()) - 1
    work.clock = _Clock(
        context, [seconds.get(cell.name, 0.0) for cell in grid for _ in range(runs_of_cell)]
    )
    corpus: dict[str, CorpusSummary] = {}
    for name, data in texts(grid).items():
        corpus[name] = gather.corpus(
            packed[name], data.context, work.floors(packed[name], data.context)
        )
    done = tuple(
        work.cell(cell, packed[cell.data], corpus[cell.data].floors["unigram"].nll) for cell in grid
    )
    return StudySummary(
        name=study.name,
        about=study.about,
        protocol=study.protocol,
        protocol_line=_protocol_line(study),
        seeds=study.seeds,
        metrics=study.metrics,
        created=gather.now(),
        command=context.command,
        seconds=context.meter.seconds(),
        environment=Environment(
            **machine.describe(context.runtime.device, context.runtime.threads)
        ),
        corpus=corpus,
        left_out=tuple(left_out(missing)),
        cells=done,
        findings=tuple(
            evaluate_claim(finding, done, study.metrics[0]) for finding in study.findings
        ),
    )


def _check(study: config.Study, grid: Sequence[StudyCell], packed: Mapping[str, Artifact]) -> None:
    """Raise RequestError with everything that the texts rule out: models and metrics."""
    used = {cell.data: packed[cell.data] for cell in grid}
    faults = misfits(grid, {name: text.facts["vocab_size"] for name, text in used.items()})
    splits = {name: gather.corpus(text, 1, None).splits for name, text in used.items()}
    for name, sizes in splits.items():
        tokens = sizes["train"].tokens
        for context in sorted(
            {cell.context for cell in grid if cell.data == name and cell.context >= tokens}
        ):
            faults.append(
                f"data.{name}.context: {context:,} is longer than the train split, which has "
                f"{tokens:,} tokens"
            )
    if "word_perplexity" in study.metrics:
        wordless = [name for name, sizes in splits.items() if not sizes["test"].words]
        faults += [
            f"metrics: the test split of {name} has no word, so no word_perplexity; leave it out"
            for name in wordless
        ]
    if faults:
        raise RequestError("\n".join([f"{study.name}:", *(f"  {fault}" for fault in faults)]))


def _protocol_line(study: config.Study) -> str:
    """Return how the learning rate was chosen, in words."""
    rates = study.rates()
    if rates == (None,):
        return "every model at the learning rate its own entry names"
    if len(rates) == 1:
        return f"every model at the one learning rate {rates[0]:g}"
    return (
        f"every model at the best of {', '.join(f'{rate:g}' for rate in rates)} by validation "
        f"NLL, tried with seed"
        f" {study.seeds[0]} at the full budget"
    )
