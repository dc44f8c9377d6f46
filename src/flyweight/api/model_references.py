"""What MODEL means: an artifact folder, `RECIPE:STAGE`, a Hugging Face folder or `hf:owner/name`.

For plan, bench and audit it may be a config as well, with random weights.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from flyweight.checkpoints import checkpoint
from flyweight.checkpoints.fetch import HUB, imported
from flyweight.config import catalogue, load, schema
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import is_path
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.run_summary import FILE, Summary
from flyweight.reports.cards import card
from flyweight.store import gc, locks, references
from flyweight.store.artifact import NAMED, PARTIAL, Artifact, Damaged, Store

MOST_NAMES = 12
"""Models that a message lists before it refers to `flyweight ls`."""


def find(
    reference: str | Path | Artifact,
    store: Store,
    where: str = "MODEL",
    watch: Watcher = ignore,
    also: Iterable[str] = (),
) -> Artifact:
    """Return the artifact that `reference` names, checked.

    Raises RequestError that lists what could have been meant.

    A Hugging Face model is imported into the runs root first, if it is not there yet. `also` are
    names beside those of models that could have been meant: of configs, for verbs that take one.
    """
    if isinstance(reference, Artifact):
        return reference
    if not isinstance(reference, str | Path):
        raise RequestError(
            f"{where}: a model is a name, a folder or an artifact (run[stage]), not "
            f"{reference!r:.80}"
        )
    text, path = str(reference), Path(reference)
    by_name = isinstance(reference, str) and not is_path(reference)
    name, colon, stage = text.partition(":")
    if by_name and colon and _run(name, store):
        return _of_recipe(name, stage, store, where)
    for folder in (store.root / text, path) if by_name else (path, store.root / text):
        if _is_file(folder / "manifest.json"):
            return Artifact.open(folder.resolve())
    if text.startswith(HUB) or (_present(path) and checkpoint.is_checkpoint(path)):
        try:
            return imported(text, store, card.write, watch)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error
    if colon:
        return _of_recipe(name, stage, store, where)
    if _present(path):
        raise RequestError(
            f"{where}: {path} is neither an artifact of flyweight (it has no manifest.json) nor "
            f"a Hugging Face model (it has no"
            " config.json with a model_type)"
        )
    raise RequestError(f"{where}: {_unknown(text, store, also)}")


def _unknown(text: str, store: Store, also: Iterable[str]) -> str:
    """Return that there is no such model, and which there are: those of a run of that name, or all."""
    if run := _run(text, store):
        own = [name for name in _known(store) if name.startswith(f"{text}:")]
        return (
            f"{text} is a run; name one of its models: {', '.join(own)}"
            if own
            else _not_finished(run)
        )
    known = _known(store)
    close = difflib.get_close_matches(text, [*also, *known], 1, 0.5)
    meant = f" (did you mean {close[0]}?)" if close else ""
    if not known:
        return f"there is no model {text!r}{meant}, and no run under {store.root} is finished yet"
    more = f" and {len(known) - MOST_NAMES} more (flyweight ls)" if len(known) > MOST_NAMES else ""
    return f"there is no model {text!r}{meant}; there are {', '.join(known[:MOST_NAMES])}{more}"


def _run(name: str, store: Store) -> references.Finished | None:
    """Return the run of that name under a runs root, finished or not; None where there is none."""
    folder = store.root / name
    if not name or Path(name).name != name or not _present(folder) or not folder.is_dir():
        return None
    run = references.of(folder)
    return run if run.results or run.others else None


def said_of_run(name: str, store: Store) -> str | None:
    """Return what a run of that name is and how to go on with it; None where there is none."""
    run = _run(name, store)
    if run is None:
        return None
    if not run.results:
        return _not_finished(run)
    return f"{name} is finished; it was made by: {run.command or 'a command that is not known'}"


def _not_finished(run: references.Finished) -> str:
    """Return what there is of a run without models to name, and the command that goes on with it."""
    commands = [other.command for other in run.others if not other.finished and other.command]
    made = {name for other in run.others for name in other.ids} | run.results
    parts = f"{len(made)} part{'s' * (len(made) != 1)}"
    if commands:
        return (
            f"the run {run.name} is not finished ({parts} of it are kept); go on with: "
            f"{commands[-1]}"
        )
    return f"{run.name} has no finished model to name, but {parts}; `flyweight ls` lists them"


def _of_recipe(name: str, stage: str, store: Store, where: str) -> Artifact:
    if not _is_file(store.root / name / FILE):
        if run := _run(name, store):
            raise RequestError(f"{where}: {_not_finished(run)}")
        finished = [path.parent.name for path in sorted(store.root.glob(f"*/{FILE}"))]
        raise RequestError(
            f"{where}: no run {name!r} under "
            f"{store.root}{load.nearest(name, finished)}{_first(name)}"
        )
    stages = {made.name: made.id for made in Summary.read(store.root / name).stages}
    if stage not in stages:
        raise RequestError(f"{where}: {name} has no stage {stage!r}{load.nearest(stage, stages)}")
    return Artifact.open(store.root / stages[stage])


def _first(name: str) -> str:
    """Return the command that makes a shipped recipe's run; nothing for a name that is none."""
    shipped = resources.files("flyweight") / "assets" / "recipes" / f"{name}.yaml"
    return f"; make it: flyweight run {name}" if shipped.is_file() else ""


def _present(path: Path) -> bool:
    """Return whether a path exists; a name that the system cannot even look up does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _is_file(path: Path) -> bool:
    return _present(path) and path.is_file()


def _known(store: Store) -> list[str]:
    found = []
    for path in sorted(store.root.glob(f"*/{FILE}")):
        try:
            found += [
                f"{path.parent.name}:{made.name}" for made in Summary.read(path.parent).stages
            ]
        except FlyweightError:
            continue  # these names are only suggested; using that run says what is wrong with it
    return found


def is_config(reference: str | Path) -> bool:
    """Return whether a reference names a model config: a YAML file or a name of the catalogue."""
    if not isinstance(reference, str | Path):
        return False
    return str(reference) in catalogue.names() or Path(reference).suffix in (".yaml", ".yml")


def config(reference: str | Path) -> schema.Architecture:
    """Return the model config of a YAML file or of the catalogue, resolved.

    Raises RequestError where it cannot be.
    """
    if str(reference) in catalogue.names():
        return catalogue.load(str(reference))
    return load.resolved(
        load.model_config(load.read_yaml(Path(reference)), str(reference)), str(reference)
    )


def listed(store: Store) -> dict[str, Any]:
    """Return what is under a runs root: `items`, the artifacts, `recipes`, `bytes` of the whole root; only manifests are read.

    An item has its size on disk and the recipes that need it (`recipe:stage` for a stage, `recipe`
    for what was measured or is needed to make it; `recipe (unfinished)` and `recipe (earlier)` are
    runs of that name whose results are not those in its folder, and a recipe tells their commands).
    Its `state` is finished, half-made (with the step of its checkpoint in `step`, and whether a
    process is at it in `being_made`) or damaged (`damaged` says what is wrong, and there are nulls
    where its manifest would tell). Oldest first, then what is half-made, then what is damaged.
    """
    found = references.read(store)
    items = [_item(entry, found.users.get(entry.path.name, [])) for entry in found.entries]
    half = [
        _half_made(path, store, found.users)
        for path in sorted(store.root.glob(f"*-????????{PARTIAL}"))
        if _is_partial(path)
    ]
    recipes = [
        {
            "name": recipe.name,
            "created": recipe.created,
            "stages": len(
                recipe.stages or recipe.named or {name for run in recipe.others for name in run.ids}
            ),
            "bytes": gc.size(recipe.path),
            "command": recipe.command,
            "damaged": recipe.damaged,
            "unfinished": [run.command for run in recipe.others if not run.finished],
            "earlier": [run.command for run in recipe.others if run.finished],
        }
        for recipe in sorted(found.recipes, key=lambda recipe: (recipe.created or "", recipe.name))
    ]
    whole = [item for item in items if item["state"] == "finished"]
    harmed = [item for item in items if item["state"] == "damaged"]
    return {
        "items": [*whole, *half, *harmed],
        "recipes": recipes,
        "bytes": gc.size(Path(os.path.realpath(store.root))) if store.root.is_dir() else 0,
    }


def _item(entry: Artifact | Damaged, users: list[str]) -> dict[str, Any]:
    item = {
        "id": entry.path.name,
        "state": "finished",
        "stage": None,
        "created": None,
        "seconds": None,
    }
    if isinstance(entry, Artifact):
        item |= {
            "stage": entry.stage,
            "created": entry.manifest["created"],
            "seconds": entry.facts["took"],
        }
    else:
        item["state"] = "damaged"
    damaged = entry.why if isinstance(entry, Damaged) else None
    return {
        **item,
        "bytes": gc.size(entry.path),
        "used_by": users,
        "damaged": damaged,
        "step": None,
        "being_made": None,
    }


def _is_partial(path: Path) -> bool:
    return path.is_dir() and NAMED.fullmatch(path.name.removesuffix(PARTIAL)) is not None


def _half_made(path: Path, store: Store, users: Mapping[str, list[str]]) -> dict[str, Any]:
    name = path.name.removesuffix(PARTIAL)
    return {
        "id": name,
        "state": "half-made",
        "stage": name.rpartition("-")[0],
        "created": None,
        "seconds": None,
        "bytes": gc.size(path),
        "used_by": users.get(name, []),
        "damaged": None,
        "step": gc.step_of(path),
        "being_made": locks.held(gc.lock_of(store.root, name)),
    }
