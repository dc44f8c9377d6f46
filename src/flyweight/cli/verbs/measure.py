"""The verbs that measure: eval, floors, bench, audit, compare, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.options import (
    MACHINE,
    WORK,
    AnyModel,
    Data,
    ModelName,
    Separator,
    Shared,
    Split,
    verb,
)
from flyweight.errors import RequestError


def evaluate(
    shared: Shared,
    model: ModelName,
    data: Data = None,
    split: Split = "test",
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once [the model's context].")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows [the window].")] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="lm-eval tasks instead of a text.")
    ] = None,
    task_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of task files of your own.")
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option(min=0, help="Examples before each question [the task's].")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task [all].")] = None,
    separator: Separator = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Measure these as well, such as accuracy."),
    ] = None,
) -> None:
    """Measure NLL, perplexities and bits per byte with intervals; or lm-eval's tasks."""
    from flyweight import api
    from flyweight.cli.show import measurements, results
    from flyweight.reports import gather

    if tasks is not None and (data or separator or window or stride or metrics):
        raise RequestError(
            "--tasks: lm-eval brings its own texts and metrics; leave --data, --separator, "
            "--window, --stride and --metrics out"
        )
    if tasks is None and (task_path or few_shot is not None or limit):
        raise RequestError("--task-path, --few-shot and --limit belong to --tasks")
    if tasks is not None:
        names = _listed(tasks)
        with shared.session() as session:
            scores = api.tasks(model, names, task_path, few_shot, limit, session=session)
        shared.answer({"tasks": scores}, results.tasks)
        return
    with shared.session() as session:
        result = api.evaluate(
            model,
            data=data,
            split=split,
            window=window,
            stride=stride,
            separator=separator,
            metrics=_listed(metrics),
            session=session,
        )
        text = gather.corpus_name(result.artifact) or data or "its own text"
    shared.answer(result.json(), lambda values: measurements.evaluation(values, model, text))


def _listed(names: str | None) -> list[str]:
    """Return the names of an option that lists several, with commas between them."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def floors(
    shared: Shared,
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

    with shared.session() as session:
        result = api.floors(
            data, split=split, tokenizer=tokenizer, separator=separator, session=session
        )
    shared.answer(result.json(), results.floors)


def bench(
    shared: Shared,
    model: AnyModel,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens generated [64].")] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of the prompt [64].")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Timed runs [5 to 15, as fits 2 s].")
    ] = None,
) -> None:
    """Measure speed and memory in a fresh process."""
    from flyweight import api
    from flyweight.cli.show import measurements

    with shared.session() as session:
        result = api.bench(
            model,
            batch=batch,
            new_tokens=new_tokens,
            prompt=prompt,
            repeats=repeats,
            session=session,
        )
    shared.answer(result.json(), lambda values: measurements.bench(values, model))


def audit(
    shared: Shared,
    model: AnyModel,
    data: Data = None,
) -> None:
    """Check what makes numbers worthless: leaks, padding, caches, sizes.

    Exit status 1: a check failed.
    """
    from flyweight import api
    from flyweight.cli.show import results

    with shared.session() as session:
        result = api.audit(model, data=data, session=session)
    shared.answer(result.json(), results.checks)
    if not result.passed:
        raise typer.Exit(1)


def compare(
    shared: Shared,
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL ...")],
    data: Data = None,
    split: Annotated[
        str, typer.Option(help="train, validation, test or validation+test.")
    ] = "test",
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
        str, typer.Option(metavar="NAME", help="What decides, such as accuracy.")
    ] = "bits_per_byte",
) -> None:
    """Say whether one model is really better than another.

    Show the metric, paired intervals, sizes and costs.
    """
    from flyweight import api
    from flyweight.cli.show import verdicts

    with shared.session() as session:
        options = {"data": data, "split": split, "against": against, "separator": separator}
        compared = api.compare(
            *models, **options, window=window, stride=stride, metric=metric, session=session
        )
    shared.answer(compared.json(), lambda _: verdicts.comparison(compared))


def doctor(
    shared: Shared,
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
    verb(app, *WORK, "seed")(audit)
    verb(app, *WORK)(compare)
    verb(app, *WORK)(doctor)
