"""Find a MODEL: an artifact folder, `RECIPE:STAGE`, a Hugging Face folder or `hf:owner/name`.

`MODEL@0.5` is the model as it was at half of its training, where that kept it.

For plan, bench and audit it may be a config as well, which gets random weights.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypedDict

from flyweight.checkpoints import read
from flyweight.checkpoints.fetch import HUB, imported
from flyweight.config import catalogue, load, schema
from flyweight.config.snapshots import SNAPSHOT
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import is_path
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.run_summary import FILE, Summary
from flyweight.reports.cards import card
from flyweight.store import gc, locks, references
from flyweight.store.artifact import NAMED, PARTIAL, Artifact, Damaged, Draft, Store
from flyweight.store.stage import Inputs

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

    A Hugging Face model is imported into the runs root first, if it is not there yet. `also` are
    further names that a message may suggest: those of configs, for verbs that take one. Raises
    RequestError, with the names that could have been meant, for an unknown model.
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
    match = re.fullmatch(SNAPSHOT, text)
    if match is not None and not text.startswith(HUB) and not _present(path):
        return _snapshot(match[1], float(match[2]), store, where, watch)
    name, colon, stage = text.partition(":")
    if by_name and colon and _run(name, store):
        return _of_recipe(name, stage, store, where)
    for folder in (store.root / text, path) if by_name else (path, store.root / text):
        if _is_file(folder / "manifest.json"):
            return Artifact.open(folder.resolve())
    if text.startswith(HUB) or (_present(path) and read.is_checkpoint(path)):
        try:
            return imported(text, store, card.write, watch)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error
    if colon:
        return _of_recipe(name, stage, store, where)
    if _present(path):
        raise RequestError(
            f"{where}: {path} is neither an artifact of flyweight (it has no manifest.json) nor "
            f"a Hugging Face model (it has no config.json with a model_type)"
        )
    raise RequestError(f"{where}: {_unknown(text, store, also)}")


def _snapshot(name: str, at: float, store: Store, where: str, watch: Watcher) -> Artifact:
    """Return a model as it was on the way of its training, made now or found."""
    from flyweight.training.snapshots import snapshot_identity, write_snapshot

    trained = find(name, store, where, watch)
    config = schema.Snapshot(stage="snapshot", input=name, at=at)
    identity = snapshot_identity(config, trained)

    def work(draft: Draft) -> dict[str, Any]:
        began = time.monotonic()
        facts = write_snapshot(config, Inputs(where, {"input": trained}), draft)
        card.write(draft, facts, {"input": trained})
        return {**facts, "took": round(time.monotonic() - began, 3), "memory_used": 0}

    return store.obtain(identity, work, watch=watch)[0]


def _unknown(text: str, store: Store, also: Iterable[str]) -> str:
    """Return a message that a model is unknown, with the models of that run, or with all models."""
    if run := _run(text, store):
        models_of_run = [name for name in _known(store) if name.startswith(f"{text}:")]
        if not models_of_run:
            return _not_finished(run)
        return f"{text} is a run; name one of its models: {', '.join(models_of_run)}"
    models = _known(store)
    close = difflib.get_close_matches(text, [*also, *models], 1, 0.5)
    suggestion = f" (did you mean {close[0]}?)" if close else ""
    unknown = f"there is no model {text!r}{suggestion}"
    if not models:
        return f"{unknown}, and no run under {store.root} is finished yet"
    more = (
        f" and {len(models) - MOST_NAMES} more (flyweight ls)" if len(models) > MOST_NAMES else ""
    )
    return f"{unknown}; there are {', '.join(models[:MOST_NAMES])}{more}"


def _run(name: str, store: Store) -> references.RunReferences | None:
    """Return the run of that name under a runs root, finished or not, or None."""
    folder = store.root / name
    if not name or Path(name).name != name or not _present(folder) or not folder.is_dir():
        return None
    run = references.of(folder)
    return run if run.results or run.others else None


def finished_run(reference: str | Path | Artifact, store: Store) -> Path | None:
    """Return the folder of a finished run that a name or a path means; None for anything else."""
    if not isinstance(reference, str | Path):
        return None
    for folder in (store.root / reference, Path(reference)):
        if _is_file(folder / FILE) and not _is_file(folder / "manifest.json"):
            return folder
    return None


def description_of_run(name: str, store: Store) -> str | None:
    """Return the state of a run and the command that goes on with it; None without such a run."""
    run = _run(name, store)
    if run is None:
        return None
    if not run.results:
        return _not_finished(run)
    return f"{name} is finished; it was made by: {run.command or 'a command that is not known'}"


def _not_finished(run: references.RunReferences) -> str:
    """Return the state of a run without finished models, and the command that goes on with it."""
    commands = [other.command for other in run.others if not other.finished and other.command]
    ids = {name for other in run.others for name in other.ids} | run.results
    parts = f"{len(ids)} part{'s' * (len(ids) != 1)}"
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
    stages = {entry.name: entry.id for entry in Summary.read(store.root / name).stages}
    if stage not in stages:
        raise RequestError(f"{where}: {name} has no stage {stage!r}{load.nearest(stage, stages)}")
    return Artifact.open(store.root / stages[stage])


def _first(name: str) -> str:
    """Return the command that makes a shipped recipe's run, or an empty text for other names."""
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
    names = []
    for path in sorted(store.root.glob(f"*/{FILE}")):
        try:
            stages = Summary.read(path.parent).stages
        except FlyweightError:
            continue  # these names are only suggested; using that run says what is wrong with it
        names += [f"{path.parent.name}:{stage.name}" for stage in stages]
    return names


def is_artifact(reference: str, store: Store) -> bool:
    """Return whether a reference names an artifact: its folder, or a stage of a finished run."""
    name, colon, _ = reference.partition(":")
    folders = (Path(reference), store.root / reference)
    if any(_is_file(folder / "manifest.json") for folder in folders):
        return True
    return bool(colon) and _is_file(store.root / name / FILE)


def is_config(reference: str | Path) -> bool:
    """Return whether a reference names a model config: a YAML file or a name of the catalogue."""
    if not isinstance(reference, str | Path):
        return False
    return str(reference) in catalogue.names() or Path(reference).suffix in (".yaml", ".yml")


def config(reference: str | Path) -> schema.Architecture:
    """Return the model config of a YAML file or of the catalogue, resolved.

    Raises RequestError where the config is wrong.
    """
    if str(reference) in catalogue.names():
        return catalogue.load(str(reference))
    return load.resolved(
        load.model_config(load.read_yaml(Path(reference)), str(reference)), str(reference)
    )


class ListedArtifact(TypedDict):
    """An artifact of a runs root, finished, half-made or damaged; see `listed`."""

    id: str
    state: Literal["finished", "half-made", "damaged"]
    stage: str | None
    created: str | None
    seconds: float | None
    bytes: int
    used_by: list[str]
    damaged: str | None
    step: int | None
    being_made: bool | None


class ListedRecipe(TypedDict):
    """A recipe or study of a runs root; `created` is None where it was never finished.

    `unfinished` and `earlier` are the commands of other runs, whose results are kept as well.
    """

    name: str
    created: str | None
    stages: int
    bytes: int
    command: str
    damaged: str | None
    unfinished: list[str]
    earlier: list[str]


class RunsListing(TypedDict):
    """What is under a runs root, and the `bytes` of the whole root."""

    items: list[ListedArtifact]
    recipes: list[ListedRecipe]
    bytes: int


def listed(store: Store) -> RunsListing:
    """Return what is under a runs root: `items`, `recipes`, and the `bytes` of the whole root.

    Only manifests are read. An item is an artifact, with its size on disk and its users in
    `used_by`: `recipe:stage` for a stage, `recipe` for a measurement or a parent. Users of the form
    `recipe (unfinished)` and `recipe (earlier)` are runs whose results are not those in the
    recipe's folder; a recipe lists their commands.

    An item's `state` is finished, half-made or damaged. A half-made one has its checkpoint's step
    in `step`, and in `being_made` whether a process is making it. A damaged one has the fault in
    `damaged`, and null for what its manifest would say. Finished items come first, from old to new,
    then half-made ones, then damaged ones.
    """
    uses = references.read(store)
    items = [_item(entry, uses.users.get(entry.path.name, [])) for entry in uses.entries]
    half = [
        _half_made(path, store, uses.users)
        for path in sorted(store.root.glob(f"*-????????{PARTIAL}"))
        if _is_partial(path)
    ]
    recipes = sorted(uses.recipes, key=lambda recipe: (recipe.created or "", recipe.name))
    finished = [item for item in items if item["state"] == "finished"]
    damaged = [item for item in items if item["state"] == "damaged"]
    return {
        "items": [*finished, *half, *damaged],
        "recipes": [_recipe(recipe) for recipe in recipes],
        "bytes": gc.size(Path(os.path.realpath(store.root))) if store.root.is_dir() else 0,
    }


def _recipe(recipe: references.RunReferences) -> ListedRecipe:
    stages = recipe.stages or recipe.named or {name for run in recipe.others for name in run.ids}
    return {
        "name": recipe.name,
        "created": recipe.created,
        "stages": len(stages),
        "bytes": gc.size(recipe.path),
        "command": recipe.command,
        "damaged": recipe.damaged,
        "unfinished": [run.command for run in recipe.others if not run.finished],
        "earlier": [run.command for run in recipe.others if run.finished],
    }


def _item(entry: Artifact | Damaged, users: list[str]) -> ListedArtifact:
    item: ListedArtifact = {
        "id": entry.path.name,
        "state": "finished",
        "stage": None,
        "created": None,
        "seconds": None,
        "bytes": gc.size(entry.path),
        "used_by": users,
        "damaged": None,
        "step": None,
        "being_made": None,
    }
    if isinstance(entry, Damaged):
        return {**item, "state": "damaged", "damaged": entry.why}
    return {
        **item,
        "stage": entry.stage,
        "created": entry.manifest["created"],
        "seconds": entry.facts["took"],
    }


def _is_partial(path: Path) -> bool:
    return path.is_dir() and NAMED.fullmatch(path.name.removesuffix(PARTIAL)) is not None


def _half_made(path: Path, store: Store, users: Mapping[str, list[str]]) -> ListedArtifact:
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
