"""Remove a run and the artifacts made for it alone, to make it anew: `--fresh`."""

from __future__ import annotations

import shutil

from flyweight.api.session import Session
from flyweight.core.files import disk_errors, refuse_link
from flyweight.errors import RequestError
from flyweight.store import gc, locks, references
from flyweight.store.artifact import NAMED, Store


def forget(store: Store, name: str, session: Session) -> None:
    """Remove a run and the artifacts made for it alone, except its packed text and examples.

    Raises RequestError where another run needs its model, or where its folder is a symbolic link.
    Raises FlyweightError where another process works in the runs root.
    """
    folder = store.root / name
    refuse_link(folder)
    if not folder.is_dir():
        return
    uses = references.read(store)
    mine = [recipe for recipe in uses.recipes if recipe.name == name]
    artifacts = {artifact.id: artifact for artifact in store.artifacts()}
    ids = {
        identifier
        for recipe in mine
        for identifier in references.reachable(recipe.results, artifacts)
    }
    ids |= {identifier for recipe in mine for other in recipe.others for identifier in other.ids}
    only_this_run = {
        identifier
        for identifier in ids
        if NAMED.fullmatch(identifier) and not identifier.startswith(("corpus-", "examples-"))
    }
    for identifier in sorted(only_this_run):
        users = [
            user
            for user in uses.users.get(identifier, ())
            if user.split(":")[0].split(" (")[0] != name
        ]
        if users:
            raise RequestError(
                f"--fresh: {identifier} is part of {users[0]} as well; give this run another "
                f"--name instead"
            )
    with locks.alone(store, session.watch), disk_errors(folder):
        refuse_link(folder)
        shutil.rmtree(folder)
    gc.collect(
        store,
        among={*only_this_run, *(f"{identifier}.partial" for identifier in only_this_run)},
        watch=session.watch,
    )
