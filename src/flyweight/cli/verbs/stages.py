"""The verbs that are recipes of one stage, and the search among many."""

from __future__ import annotations

from typing import Annotated

import typer

from flyweight.cli.options import (
    WORK,
    CommonOptions,
    Data,
    FewShot,
    LmEvalTasks,
    ModelName,
    Overrides,
    Separator,
    Task,
    TaskPath,
    listed,
    verb,
)


def distill(
    shared: CommonOptions,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher.")],
    overrides: Overrides = None,
    input: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="An existing student, instead of a new one."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Distil MODEL into a smaller one.

    Its fields are path=value words: model.dim=128 model.layers=4 train.steps=800 data.corpus=...
    """
    from flyweight import api

    with shared.session() as session:
        result = api.distill(model, *(overrides or ()), input=input, name=name, session=session)
    shared.answer_run(result)


def quantize(
    shared: CommonOptions,
    model: ModelName,
    kind: Annotated[str, typer.Option(help="int8, int8_dynamic, int4, int3 or nf4.")] = "int8",
    group: Annotated[
        int | None, typer.Option(min=1, help="Columns that share a scale, of int4 and int3 [32].")
    ] = None,
    rounding: Annotated[
        str, typer.Option(help="nearest, or gptq, which reads training text.")
    ] = "nearest",
    clip: Annotated[
        float | None,
        typer.Option(help="Standard deviations of a row beyond which values are cut off."),
    ] = None,
    data: Data = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Store MODEL's matrices in fewer bits and measure the cost.

    Its fields are path=value words: embedding=int4 calibration.tokens=16384
    """
    from flyweight import api

    with shared.session() as session:
        result = api.quantize(
            model,
            *(overrides or ()),
            kind=kind,
            group=group,
            rounding=rounding,
            clip=clip,
            data=data,
            name=name,
            session=session,
        )
    shared.answer_run(result)


def prune(
    shared: CommonOptions,
    model: ModelName,
    method: Annotated[
        str, typer.Option(help="magnitude, wanda, sparsegpt or random.")
    ] = "magnitude",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the weights that becomes zero, such as 0.5.")
    ] = None,
    of: Annotated[str, typer.Option(help="weights, or adapters: the A and B of LoRA.")] = "weights",
    pattern: Annotated[
        str | None, typer.Option(help="2:4 keeps two of every four weights in a row.")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="layer or global: which weights are compared with each other.")
    ] = "layer",
    data: Data = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Set the least important weights of MODEL to zero, with masks that keep them there."""
    from flyweight import api

    with shared.session() as session:
        result = api.prune(
            model,
            *(overrides or ()),
            method=method,
            sparsity=sparsity,
            of=of,
            pattern=pattern,
            scope=scope,
            data=data,
            name=name,
            session=session,
        )
    shared.answer_run(result)


def pack(
    shared: CommonOptions,
    model: ModelName,
    keep: Annotated[bool, typer.Option("--keep", help="Pack it even if it gets larger.")] = False,
    data: Data = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Store MODEL, which was pruned, without its zeros."""
    from flyweight import api

    with shared.session() as session:
        result = api.pack(
            model, *(overrides or ()), keep=keep, data=data, name=name, session=session
        )
    shared.answer_run(result)


def merge(
    shared: CommonOptions,
    model: ModelName,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Make matrices dense that are stored in fewer bits.")
    ] = False,
    data: Data = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Make MODEL's adapters part of its matrices."""
    from flyweight import api

    with shared.session() as session:
        result = api.merge(
            model, *(overrides or ()), unpack=unpack, data=data, name=name, session=session
        )
    shared.answer_run(result)


def compress(
    shared: CommonOptions,
    model: ModelName,
    size: Annotated[
        str | None, typer.Option("--bytes", help="The weights' bytes at most, such as 40MB.")
    ] = None,
    speed: Annotated[
        str | None, typer.Option(help="How many times as fast it generates here, such as 2x.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="More bits per byte at most, such as 1%.")
    ] = None,
    recover: Annotated[
        str,
        typer.Option(help="Share of the original tokens to train pruned models on; 0: none."),
    ] = "10%",
    data: Data = None,
    separator: Separator = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Make MODEL smaller or faster within one limit, by the way that is best on validation text."""
    from flyweight import api
    from flyweight.cli.show import compression

    with shared.session() as session:
        result = api.compress(
            model,
            bytes=size,
            speed=speed,
            loss=loss,
            recover=recover,
            data=data,
            separator=separator,
            name=name,
            session=session,
        )
    shared.answer(result.json(), lambda _: compression.show(result))
    if not result.record.passed:
        raise typer.Exit(1)


def finetune(
    shared: CommonOptions,
    model: ModelName,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="A text, or a file of prompts and completions."),
    ] = None,
    task: Task = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="lora, rslora, dora, ia3, bottleneck, prefix, frozen or full [chosen and told]."
        ),
    ] = None,
    tasks: LmEvalTasks = None,
    task_path: TaskPath = None,
    few_shot: FewShot = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each lm-eval task, the first [all].")
    ] = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Train MODEL further on a text or a task.

    Its fields are path=value words: train.epochs=2 method.r=16 data.context=128

    With --tasks, lm-eval's tasks are measured before and after.
    """
    from flyweight import api

    with shared.session() as session:
        result = api.finetune(
            model,
            *(overrides or ()),
            data=data,
            task=task,
            method=method,
            tasks=listed(tasks),
            task_path=task_path,
            few_shot=few_shot,
            limit=limit,
            name=name,
            session=session,
        )
    shared.answer_run(result)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *WORK, "seed")(distill)
    verb(app, *WORK, "seed")(finetune)
    verb(app, *WORK)(quantize)
    verb(app, *WORK, "seed")(prune)
    verb(app, *WORK)(pack)
    verb(app, *WORK)(merge)
    verb(app, *WORK, "seed")(compress)
