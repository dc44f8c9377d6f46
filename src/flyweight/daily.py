"""The command line's daily verbs: compare, chat and doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from flyweight.options import MACHINE, WORK, Shared, verb

Data = Annotated[str | None, typer.Option(metavar="DATA", help="A corpus: name, file, folder, glob, hf:owner/name.")]


def compare(
    shared: Shared,
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL ...")],
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, validation, test or validation+test.")] = "test",
    against: Annotated[str | None, typer.Option(metavar="MODEL", help="Which one the others stand against [the best].")] = None,
    window: Annotated[int | None, typer.Option(help="Tokens read at once [each model's context].")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows [the window].")] = None,
) -> None:
    """Say whether one model is really better than another: bits per byte, paired intervals, sizes and costs."""
    from flyweight import api, verdicts

    with shared.session() as session:
        found = api.compare(models, data, split, session, against, window, stride)
    shared.answer(found.json(), lambda _: verdicts.comparison(found))


def chat(
    shared: Shared,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact folder or RECIPE:STAGE.")],
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Instructions, for a model with a chat template.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    min_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End answers before this text (may be repeated).")] = None,
) -> None:
    """Talk with a model, a line a turn, typed or piped: in its chat template where it has one, else as one running text."""
    from flyweight import api, conversation

    with shared.session(quiet=True) as session:
        options = (max_new_tokens, temperature, top_k, top_p, min_p, shared.seed, stop or ())
        held = api.chat(model, system, *options, session=session)
        conversation.talk(held, model, shared.as_json)
    shared.answer({"model": model, **held.json()}, lambda _: None)


def doctor(
    shared: Shared,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out libraries that take seconds to import.")] = False,
) -> None:
    """Measure what this machine can do, and say how to get what is missing. Exit status 1: something needed is broken."""
    from flyweight import api, verdicts

    with shared.session() as session:
        found = api.doctor(session, quick)
    shared.answer(found.json(), lambda _: verdicts.doctor(found))
    if not found.ok:
        raise typer.Exit(1)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *WORK)(compare)
    verb(app, *MACHINE, "seed")(chat)
    verb(app, *WORK)(doctor)
