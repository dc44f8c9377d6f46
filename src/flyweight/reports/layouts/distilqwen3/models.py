"""Models of others and ours side by side: size, speed, bits per byte and scores on the tasks."""

from __future__ import annotations

from dataclasses import dataclass

from flyweight.config import catalogue
from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count, format_size
from flyweight.reports.layouts.content import LinkedCell, LinkedRow, LinkedTable, missing_cell
from flyweight.reports.layouts.distilqwen3.roles import (
    COMPARED,
    OTHERS,
    POSTER,
    SHAPES,
    TASKS,
    TEACHER,
    tuned,
)
from flyweight.reports.layouts.measured_run import MeasuredRun, metric_cell
from flyweight.spec import flops


@dataclass(frozen=True)
class Measure:
    """A number of a model: its title, and whether random weights have it as well."""

    title: str
    of_shape: bool


MEASURES = {
    "parameters": Measure("parameters", of_shape=True),
    "disk_bytes": Measure("file", of_shape=True),
    "decode_tokens_per_s": Measure("tokens/s", of_shape=True),
    "bits_per_byte": Measure("bits per byte", of_shape=False),
    "dialogue": Measure("dialogue: completion perplexity", of_shape=False),
    "squad": Measure("SQuAD: F1", of_shape=False),
    "summarize": Measure("summaries: ROUGE-L", of_shape=False),
}
"""What figure 4 shows of each model."""


def compared_names(run: MeasuredRun) -> list[str]:
    """Return the models of figure 4: those of others and ours in any case, the rest if there."""
    always = {*OTHERS, POSTER}
    return [name for name in COMPARED if name in always or name in run.stages]


def side_by_side(run: MeasuredRun) -> LinkedTable:
    """Return the numbers of figure 4 as a table."""
    rows = [
        LinkedRow(
            COMPARED[name], name, {measure: measured(run, name, measure) for measure in MEASURES}
        )
        for name in compared_names(run)
    ]
    columns = {key: measure.title for key, measure in MEASURES.items()}
    setting = run.setting_of(compared_names(run), (1,))
    notes = (
        f"One harness for all. File: that of the weights as they are stored. Speed: new tokens a "
        f"second, {setting}. Bits per byte: test text, the same for all.",
        "Tasks: ours are fine-tuned on each. The others answer as they are, so that their scores "
        "show what no fine-tuning reaches and not which model is better.",
    )
    return LinkedTable("models", "Models side by side", columns, tuple(rows), notes)


def measured(run: MeasuredRun, name: str, measure: str) -> LinkedCell:
    """Return a number of a model, or why it is missing."""
    if why := _not_there(run, name):
        return missing_cell(why)
    if not MEASURES[measure].of_shape and run.stages[name].stage == "init":
        return missing_cell(f"{name} has random weights here, which only tell size and speed")
    if measure == "parameters":
        return run.parameters(name)
    if measure == "bits_per_byte":
        return _bits(run, name)
    if measure in TASKS:
        return task_score(run, name, measure)
    return run.speed(name, run.setting_of(compared_names(run), (1,)), measure)


def _not_there(run: MeasuredRun, name: str) -> str:
    """Return why a model is not in the run; of others, with what it would take."""
    why = run.absent(name)
    if not why or name not in OTHERS:
        return why
    shape = catalogue.load(SHAPES[name])
    count, size = flops.parameters(shape).unique, flops.weight_bytes(shape, itemsize=2)
    memory = run.summary.environment.memory_bytes
    return (
        f"{why}; its {format_count(count)} parameters take {format_size(size)} in bfloat16, and "
        f"this machine has {format_size(memory)} of memory"
    )


def _bits(run: MeasuredRun, name: str) -> LinkedCell:
    """Return a model's bits per byte on test text; missing where the poster's read another."""
    cell = run.bits_per_byte(name, "test")
    texts = {corpus.fingerprint: corpus.source for corpus in run.summary.corpus}
    read = [run.evaluation(each, "test") for each in (name, POSTER)]
    sources = [texts.get(each[0].corpus) if each else None for each in read]
    if cell.missing or None in sources or sources[0] == sources[1]:
        return cell
    return missing_cell(f"{name} was scored on another text than {POSTER}")


def task_score(run: MeasuredRun, name: str, task: str) -> LinkedCell:
    """Return the score of a model on a task: of what it became by learning it, else of itself."""
    metric = TASKS[task]
    found = run.scores(tuned(name, task), task)
    how = "fine-tuned on it"
    if found is None:
        found, how = run.scores(name, task), "as it is, without fine-tuning"
    if found is None:
        return missing_cell(_not_scored(run, name, task))
    scores, artifact = found
    if metric not in scores.metrics:
        return missing_cell(f"{metric} was not measured on {task}")
    setting = f"{how}; {scores.rows} rows of the {scores.split} split"
    kind = metric_kind(metric)
    return metric_cell(scores.metrics[metric], kind.unit, kind.written, artifact, setting)


def _not_scored(run: MeasuredRun, name: str, task: str) -> str:
    learned = tuned(name, task)
    if name in OTHERS or name == TEACHER:
        return f"no stage score asks {name} for {task}"
    return run.absent(learned) or f"no stage score asks {learned} for {task}"
