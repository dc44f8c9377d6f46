"""The verbs that look after a runs root: report, ls and gc."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.options import CommonOptions, verb
from flyweight.config.units import format_size, parse_time
from flyweight.errors import RequestError


def report(
    shared: CommonOptions,
    names: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="A folder, or a page (.html) [the run's own; report/ for several].",
        ),
    ] = None,
) -> None:
    """Write the report of a finished run anew, or one page over several runs."""
    from flyweight import api
    from flyweight.cli.show import results

    with shared.session(quiet=True) as session:
        path = api.report(*names, out=out, session=session)
    shared.answer({"report": str(path)}, lambda value: results.say(f"report: {value['report']}"))


def ls(
    shared: CommonOptions,
    catalogue: Annotated[bool, typer.Option("--catalogue", help="Shipped model configs.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="Shipped recipes.")] = False,
    studies: Annotated[bool, typer.Option("--studies", help="Shipped studies.")] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Only models, by the name to give as MODEL.")
    ] = False,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Tasks with their fixed texts and their files.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every line, however long the list.")
    ] = False,
) -> None:
    """List the artifacts of the runs root with the recipes that need them, and all recipes.

    Half-made artifacts and unfinished recipes are listed too. Options list what is shipped instead.
    """
    from flyweight import api
    from flyweight.cli.show import results

    if catalogue or recipes or studies:
        names = [
            *(api.shipped_models() if catalogue else ()),
            *(api.shipped() if recipes else ()),
            *(api.shipped_studies() if studies else ()),
        ]
        shared.answer({"items": names}, lambda value: results.say(*value["items"]))
        return
    if tasks:
        shared.answer(
            {"items": api.task_templates()}, lambda value: results.task_templates(value["items"])
        )
        return
    with shared.session(quiet=True) as session:
        if models:
            found = api.listed_models(session)
            shared.answer({"items": found}, lambda _: results.models(found, everything))
            return
        shared.answer(api.artifacts(session), lambda value: results.listing(value, everything))


def gc(
    shared: CommonOptions,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only things made that long ago: 12h, 7d.")
    ] = None,
) -> None:
    """Remove artifacts that no recipe refers to, after a question.

    Half-made artifacts that no process is making and stale locks are removed as well. Artifacts of
    unfinished and earlier runs of a name are kept, and listed. To give up a recipe, delete its
    folder in the runs root.
    """
    from flyweight import api
    from flyweight.cli.show import results

    if yes and dry_run:
        raise RequestError("--yes, --dry-run: --yes removes, --dry-run does not; give one of them")
    if not (yes or dry_run) and (shared.as_json or not sys.stdin.isatty()):
        where = "with --json it cannot" if shared.as_json else "there is no terminal to ask on"
        raise RequestError(
            f"gc asks before it removes, and {where}; give --yes, or --dry-run to look"
        )
    age = _age(older_than)
    with shared.session(quiet=True) as session:
        garbage = api.gc(older_than=age, dry_run=True, session=session)
    if dry_run:
        shared.answer(garbage.json(), lambda _: results.garbage(garbage))
        return
    if not yes:
        results.garbage(garbage)
    if garbage.items and not yes and not _confirmed(garbage.bytes):
        shared.answer(garbage.json(), lambda _: results.say("nothing was removed"))
        return
    if garbage.items:
        with shared.session() as session:
            names = [item.path.name for item in garbage.items]
            garbage = api.gc(names, age, session=session)

    def show(_: object) -> None:
        if garbage.removed or yes:
            results.removed(garbage)

    shared.answer(garbage.json(), show)


def _confirmed(size: int) -> bool:
    return typer.confirm(f"Remove these {format_size(size)}?")


def _age(text: str | None) -> float:
    try:
        return 0.0 if text is None else parse_time(text)
    except ValueError as error:
        raise RequestError(f"--older-than: {error}") from error


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, "runs")(report)
    verb(app, "runs")(ls)
    verb(app, "runs")(gc)
