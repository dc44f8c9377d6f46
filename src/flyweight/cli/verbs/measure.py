"""The verbs that measure: eval, floors, bench, profile, audit, compare, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.options import (
    MACHINE,
    WORK,
    AnyModel,
    Audited,
    BadRows,
    CommonOptions,
    Data,
    EngineOption,
    FewShot,
    LmEvalTasks,
    ModelName,
    NewTokens,
    Separator,
    Task,
    TaskPath,
    TaskSplit,
    listed,
    verb,
)
from flyweight.config.speed import AttentionName, PrecisionName
from flyweight.errors import RequestError

Precision = Annotated[
    PrecisionName, typer.Option(help="The float type of products; fp32 is the model's own.")
]
Attention = Annotated[
    AttentionName, typer.Option(help="Its kernel; what a profiler sees has to be the same.")
]


def evaluate(
    shared: CommonOptions,
    model: ModelName,
    data: Data = None,
    split: TaskSplit = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once [the model's context].")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows [the window].")] = None,
    task: Task = None,
    tasks: LmEvalTasks = None,
    task_path: TaskPath = None,
    few_shot: FewShot = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows of a task, drawn over all contexts; lm-eval takes the first [all]."
        ),
    ] = None,
    new_tokens: NewTokens = None,
    bad_rows: BadRows = None,
    separator: Separator = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Measure these as well, such as accuracy; of a task only these."
        ),
    ] = None,
) -> None:
    """Measure NLL, perplexities and bits per byte with intervals; or how well a task is done.

    --task asks a model to answer, and shows its scores beside those of answers without a model.
    """
    from flyweight import api
    from flyweight.cli.show import measurements, results, scores
    from flyweight.records.likelihood import MeasuredLikelihood
    from flyweight.reports import unit_scores

    if tasks is not None and (data or separator or window or stride or metrics or task or split):
        raise RequestError(
            "--tasks: lm-eval brings its own texts and metrics; leave --data, --separator, "
            "--window, --stride, --split, --task and --metrics out"
        )
    if tasks is None and (task_path or few_shot is not None):
        raise RequestError("--task-path and --few-shot belong to --tasks")
    if tasks is not None:
        if new_tokens is not None or bad_rows is not None:
            raise RequestError("--new-tokens and --bad-rows belong to --task")
        names = listed(tasks)
        with shared.session() as session:
            scored = api.tasks(model, names, task_path, few_shot, limit, session=session)
        shared.answer({"tasks": scored}, results.tasks)
        return
    if task is None and limit is not None:
        raise RequestError("--limit belongs to --task or --tasks")
    with shared.session() as session:
        result = api.evaluate(
            model,
            data=data,
            split=split,
            window=window,
            stride=stride,
            separator=separator,
            metrics=listed(metrics),
            task=task,
            limit=limit,
            new_tokens=new_tokens,
            bad_rows=bad_rows,
            session=session,
        )
        text = unit_scores.corpus_name(result.artifact) or data or "its own text"
    if task is not None:
        shared.answer(result.json(), lambda values: scores.task(values, model))
        return

    def show(_: object) -> None:
        measured = MeasuredLikelihood.from_metrics(result.values)
        measurements.evaluation(measured, model, text, result.notes)

    shared.answer(result.json(), show)


def floors(
    shared: CommonOptions,
    data: Annotated[str, typer.Argument(metavar="DATA")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    tokenizer: Annotated[
        str | None, typer.Option(help="word, char, byte, bpe, or {kind: bpe, vocab: 1024}.")
    ] = None,
    separator: Separator = None,
) -> None:
    """Measure what any model has to beat: unigram, bigram and Kneser-Ney 5-gram models.

    They read DATA's own tokens unless --tokenizer names others.
    """
    from flyweight import api
    from flyweight.cli.show import results
    from flyweight.records.floors import NgramFloors

    with shared.session() as session:
        result = api.floors(
            data, split=split, tokenizer=tokenizer, separator=separator, session=session
        )
    measured = NgramFloors.from_metrics(result.values)
    shared.answer(result.json(), lambda _: results.floors(measured, result.notes))


def bench(
    shared: CommonOptions,
    model: AnyModel,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens generated [64].")] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of the prompt [64].")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Timed runs [5 to 15, as fits 2 s].")
    ] = None,
    precision: Precision = "fp32",
    attention: Attention = "auto",
    engine: EngineOption = "auto",
    generate_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of the short answer that is timed.")
    ] = 5,
) -> None:
    """Measure speed and memory in a fresh process."""
    from flyweight import api
    from flyweight.cli.show import measurements
    from flyweight.records.bench import BenchResult

    with shared.session() as session:
        result = api.bench(
            model,
            batch=batch,
            new_tokens=new_tokens,
            prompt=prompt,
            repeats=repeats,
            precision=precision,
            attention=attention,
            engine=engine,
            generate_tokens=generate_tokens,
            session=session,
        )
    measured = BenchResult.from_metrics(result.values)
    shared.answer(result.json(), lambda _: measurements.bench(measured, model))


def profile(
    shared: CommonOptions,
    model: AnyModel,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated.")] = 20,
    prompt: Annotated[int | None, typer.Option(min=1, help="Tokens of the prompt [64].")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the first tokens' events, for Perfetto."),
    ] = None,
    precision: Precision = "fp32",
    attention: Attention = "auto",
    engine: EngineOption = "auto",
) -> None:
    """Show which operators a generation calls, and what they take."""
    from flyweight import api
    from flyweight.cli.show import measurements
    from flyweight.records.profile import ProfileResult

    with shared.session() as session:
        result = api.profile(
            model,
            new_tokens=new_tokens,
            prompt=prompt,
            trace=trace,
            precision=precision,
            attention=attention,
            engine=engine,
            session=session,
        )
    measured = ProfileResult.from_metrics(result.values)
    shared.answer(result.json(), lambda _: measurements.profile(measured, model))


def audit(
    shared: CommonOptions,
    model: Audited,
    data: Data = None,
) -> None:
    """Check what makes numbers worthless: leaks, padding, caches, sizes, comparisons.

    A RUN is checked for what it compares: texts, splits, speeds and their causes. Exit status 1: a
    check failed.
    """
    from flyweight import api
    from flyweight.cli.show import results
    from flyweight.records.audit import AuditResult

    with shared.session() as session:
        result = api.audit(model, data=data, session=session)
    checked, content = result, {}
    if isinstance(checked, api.Measurement):
        content = checked.json()
        checked = AuditResult.from_metrics(checked.values)
    shared.answer(content or checked.to_metrics(), lambda _: results.checks(checked))
    if not checked.passed:
        raise typer.Exit(1)


def compare(
    shared: CommonOptions,
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL ...")],
    data: Data = None,
    split: TaskSplit = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model to compare the others with [the best]."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once [each model's context].")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows [the window].")] = None,
    separator: Separator = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What decides [bits_per_byte; f1 or rougeL of a task]."),
    ] = None,
    task: Task = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows of the task, drawn over all contexts [all].")
    ] = None,
    new_tokens: NewTokens = None,
    bad_rows: BadRows = None,
) -> None:
    """Say whether one model is really better than another.

    Show the metric, paired intervals, sizes and costs.
    """
    from flyweight import api
    from flyweight.cli.show import verdicts

    with shared.session() as session:
        options = {"data": data, "split": split, "against": against, "separator": separator}
        of_task = {"task": task, "limit": limit, "new_tokens": new_tokens, "bad_rows": bad_rows}
        compared = api.compare(
            *models,
            **options,
            **of_task,
            window=window,
            stride=stride,
            metric=metric,
            session=session,
        )
    shared.answer(compared.json(), lambda _: verdicts.comparison(compared))


def doctor(
    shared: CommonOptions,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out libraries that take seconds to import.")
    ] = False,
) -> None:
    """Measure what this machine can do, and say how to get what is missing.

    Exit status 1: something needed is broken.
    """
    from flyweight import api
    from flyweight.cli.show import verdicts

    with shared.session() as session:
        health = api.doctor(quick=quick, session=session)
    shared.answer(health.json(), lambda _: verdicts.doctor(health))
    if not health.ok:
        raise typer.Exit(1)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *WORK, name="eval")(evaluate)
    verb(app, "runs", "data_dir")(floors)
    verb(app, *MACHINE, "seed")(bench)
    verb(app, *MACHINE, "seed")(profile)
    verb(app, *WORK, "seed")(audit)
    verb(app, *WORK)(compare)
    verb(app, *WORK)(doctor)
