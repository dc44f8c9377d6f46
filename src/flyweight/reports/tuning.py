"""From the artifacts of a fine-tuning to its record, and to words and rows that show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flyweight.config import load, schema
from flyweight.config.metrics import TASK_METRICS, metric_kind
from flyweight.config.units import format_bits, format_count, format_number, format_size
from flyweight.core.files import read_json
from flyweight.evaluation import lm_eval_scores
from flyweight.evaluation.compare import Paired, paired
from flyweight.records.metric import Metric
from flyweight.records.sample import samples_of
from flyweight.records.scores import TaskScores
from flyweight.records.tuning import AnswerPair, Change, Tuning
from flyweight.reports import unit_scores
from flyweight.reports.gather import evaluation
from flyweight.spec import flops
from flyweight.store.artifact import Artifact

ANSWERS = 5
"""Answers of both models that a record keeps."""

PERPLEXITY, NLL = "completion_perplexity", "nll"

Measured = tuple[Artifact, Artifact]
"""One measurement of the base and of the tuned model."""


def tuning(
    name: str,
    config: schema.Finetune,
    base: Artifact,
    tuned: Artifact,
    *,
    learned: Measured | None,
    forgotten: Measured | None,
    samples: Measured | None,
    lm_eval: Measured | None = None,
    notes: Sequence[str] = (),
) -> Tuning:
    """Return the record of a fine-tuning from its measurements."""
    folder = tuned.path / "model"
    model = load.model_config(read_json(folder / "config.json"), str(folder))
    changes: list[Change] = []
    answers: tuple[AnswerPair, ...] = ()
    if learned is not None:
        on_task = learned[0].stage == "score"
        changes += _of_task(learned) if on_task else _of_text(learned, "learned")
        answers = _task_answers(learned) if on_task else ()
    unpaired: list[str] = []
    if lm_eval is not None:
        on_tasks, unpaired = _on_lm_eval(lm_eval)
        changes += on_tasks
    if forgotten is not None:
        changes += _of_text(forgotten, "forgotten")
    if samples is not None:
        answers = _continuations(samples)
    task = config.data.task if isinstance(config.data, schema.TaskData) else None
    return Tuning(
        name=name,
        base=base.id,
        method=config.method.kind,
        task=task,
        trainable=tuned.facts["trainable_parameters"],
        parameters=flops.parameters(model).unique,
        adapter_bytes=tuned.facts.get("adapter_bytes"),
        examples=tuned.facts.get("examples"),
        changes=tuple(changes),
        answers=answers,
        notes=(*_remarks(tuned), *unpaired, *notes),
    )


def _remarks(tuned: Artifact) -> list[str]:
    """Return what was remarked of a task's rows: how many were cut or left out, and why."""
    encoded = tuned.identity["parents"].get("examples")
    folder = tuned.path.parent / str(encoded)
    if encoded is None or not (folder / "manifest.json").is_file():
        return []
    return [str(remark) for remark in Artifact.glance(folder).facts.get("remarks", ())]


def _pair(measured: Measured) -> Paired:
    before, after = map(unit_scores.of, measured)
    return paired(after, before)


def _of_text(measured: Measured, about: str) -> Iterator[Change]:
    before, after = map(evaluation, measured)
    if before is None or after is None:
        return
    yield Change(
        about="learned" if about == "learned" else "forgotten",
        on=f"{unit_scores.corpus_name(measured[0])}, {before.split}",
        metric=NLL,
        before=before.nll,
        after=after.nll,
        difference=_pair(measured).nll,
    )


def _of_task(measured: Measured) -> Iterator[Change]:
    before, after = (TaskScores.from_metrics(artifact.metrics()) for artifact in measured)
    pair = _pair(measured)
    on = f"{before.task}, {before.split}, {before.rows:,} rows"
    for metric in dict.fromkeys((PERPLEXITY, *before.shown)):
        if metric not in before.metrics or metric not in after.metrics:
            continue
        values = before.metrics[metric], after.metrics[metric]
        difference = pair.metrics.get(metric)
        if metric == PERPLEXITY:
            values, difference = (_log(values[0]), _log(values[1])), pair.nll
        yield Change(
            about="learned",
            on=on,
            metric=NLL if metric == PERPLEXITY else metric,
            before=values[0],
            after=values[1],
            difference=difference,
        )


def _on_lm_eval(measured: Measured) -> tuple[list[Change], list[str]]:
    """Return the changes on tasks of lm-eval, question by question, and what was not paired."""
    before, after = map(lm_eval_scores.read, measured)
    paired_metrics, faults = lm_eval_scores.paired(before, after)
    changes = [
        Change(
            about="learned",
            on=f"{each.task} (lm-eval), {each.first.n:,} questions",
            metric=each.metric,
            before=each.first,
            after=each.second,
            difference=each.difference,
        )
        for each in paired_metrics
    ]
    return changes, [*before.record.notes, *faults]


def _log(perplexity: Metric) -> Metric:
    """Return the NLL in nats per token of a perplexity."""
    value, low, high = (
        math.log(number) for number in (perplexity.value, perplexity.low, perplexity.high)
    )
    return Metric(value, "nats/token", "lower", perplexity.n, low, high)


def _task_answers(measured: Measured) -> tuple[AnswerPair, ...]:
    before, after = (TaskScores.from_metrics(artifact.metrics()) for artifact in measured)
    return tuple(
        AnswerPair(
            prompt=first.prompt,
            before=first.answer,
            after=second.answer,
            references=first.references,
        )
        for first, second in zip(before.answers[:ANSWERS], after.answers[:ANSWERS], strict=True)
    )


def _continuations(measured: Measured) -> tuple[AnswerPair, ...]:
    before, after = (samples_of(artifact.metrics()) for artifact in measured)
    return tuple(
        AnswerPair(prompt=first.prompt, before=first.text, after=second.text)
        for first, second in zip(before[:ANSWERS], after[:ANSWERS], strict=True)
    )


# --- in words ---


def headline(record: Tuning) -> str:
    """Return in a sentence what was trained."""
    share = f"{format_count(record.trainable)} of {format_count(record.parameters)} parameters"
    added = ""
    if record.adapter_bytes is not None:
        added = f", an adapter of {format_size(record.adapter_bytes)}"
    on = "" if record.task is None else f" on {record.task}"
    read = "" if record.examples is None else f", {record.examples:,} examples read"
    return f"{record.name} trained {share}{on} ({record.method}{added}{read})."


def change_cells(change: Change) -> tuple[str, str, str, str, str]:
    """Return a change as cells: on what, the metric, before, after, and the paired difference."""
    title = "NLL" if change.metric == NLL else change.metric  # metrics of lm-eval have its names
    if change.metric in TASK_METRICS:
        title = metric_kind(change.metric).title
    shown = format_bits if change.metric == NLL else format_number
    difference = "-"
    if change.difference is not None:
        each = change.difference
        low, high = shown(each.low), shown(each.high)
        difference = f"{shown(each.value)} ({low} to {high}): {each.verdict}"
    on = change.on if change.about == "learned" else f"its own text: {change.on}"
    return (on, title, _interval(change.before), _interval(change.after), difference)


def _interval(metric: Metric) -> str:
    shown = format_bits if metric.unit == "nats/token" else format_number
    return f"{shown(metric.value)} ({shown(metric.low)} to {shown(metric.high)})"


HEAD = ("on", "metric", "before", "after", "after - before, paired")
"""The head of a table of changes."""
