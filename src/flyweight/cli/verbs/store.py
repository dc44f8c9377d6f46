"""The verbs that look after a runs root: its reports, what is there, and the removal of what nobody needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.options import Shared, verb
from flyweight.config.units import format_size, parse_time
from flyweight.errors import RequestError


def report(
    shared: Shared,
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
    shared: Shared,
    catalogue: Annotated[bool, typer.Option("--catalogue", help="Shipped model configs.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="Shipped recipes.")] = False,
    studies: Annotated[bool, typer.Option("--studies", help="Shipped studies.")] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Only models, by the name to give as MODEL.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every line, however long the list.")
    ] = False,
) -> None:
    """List artifacts with what needs them, half-made ones and recipes, finished or not.

    Or what is shipped.
    """
    from flyweight import api
    from flyweight.cli.show import results

    shipped = (
        [api.shipped_models] * catalogue + [api.shipped] * recipes + [api.shipped_studies] * studies
    )
    if shipped:
        found = [name for each in shipped for name in each()]
        shared.answer({"items": found}, lambda value: results.say(*value["items"]))
        return
    with shared.session(quiet=True) as session:
        if models:
            found = {"items": api.listed_models(session)}
            shared.answer(found, lambda value: results.models(value["items"], everything))
            return
        shared.answer(api.artifacts(session), lambda value: results.listing(value, everything))


def gc(
    shared: Shared,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what was made that long ago: 12h, 7d.")
    ] = None,
) -> None:
    """Remove artifacts that no recipe refers to, half-made ones that no process is making, and stale locks; ask first.

    What unfinished runs and earlier runs of a name have made is kept, and said. A recipe is given
    up by deleting its folder in the runs root.
    """
    from flyweight import api
    from flyweight.cli.show import results

    if yes and dry_run:
        raise RequestError("--yes, --dry-run: one says remove, the other do not; give one of them")
    if not (yes or dry_run) and (shared.as_json or not sys.stdin.isatty()):
        where = "with --json it cannot" if shared.as_json else "there is no terminal to ask on"
        raise RequestError(
            f"gc asks before it removes, and {where}; give --yes, or --dry-run to look"
        )
    age = _age(older_than)
    with shared.session(quiet=True) as session:
        found = api.gc(older_than=age, dry_run=True, session=session)
    if not (dry_run or yes):
        results.garbage(found)
    if dry_run or (found.items and not yes and not _agreed(found.bytes)):
        shared.answer(
            found.json(),
            lambda _: results.garbage(found) if dry_run else results.say("nothing was removed"),
        )
        return
    with shared.session() as session:
        done = (
            api.gc([item.path.name for item in found.items], age, session=session)
            if found.items
            else found
        )
    shared.answer(done.json(), lambda _: results.removed(done) if done.removed or yes else None)


def _agreed(size: int) -> bool:
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
