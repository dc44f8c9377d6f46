"""The verbs that are recipes of one stage."""

from __future__ import annotations

from typing import Annotated

import typer

from flyweight.cli.options import WORK, Data, ModelName, Overrides, Shared, verb


def distill(
    shared: Shared,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Distil MODEL into a smaller one.

    Its fields are path=value words: model.dim=128 model.layers=4 train.steps=800 data.corpus=...
    """
    from flyweight import api

    with shared.session() as session:
        result = api.distill(model, *(overrides or ()), name=name, session=session)
    shared.answer_run(result)


def quantize(
    shared: Shared,
    model: ModelName,
    kind: Annotated[str, typer.Option(help="int8 or nf4.")] = "int8",
    data: Data = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Store MODEL's matrices in fewer bits and measure the cost."""
    from flyweight import api

    with shared.session() as session:
        result = api.quantize(
            model, *(overrides or ()), kind=kind, data=data, name=name, session=session
        )
    shared.answer_run(result)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *WORK, "seed")(distill)
    verb(app, *WORK)(quantize)
