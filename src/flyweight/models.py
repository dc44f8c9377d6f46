"""What MODEL means: an artifact folder, `RECIPE:STAGE`, a Hugging Face folder or `hf:owner/name`.

For plan, bench and audit it may be a config as well, with random weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flyweight import garbage, references
from flyweight.config import catalogue, load, schema
from flyweight.core import usage
from flyweight.core.artifact import NAMED, PARTIAL, Artifact, Damaged, Store
from flyweight.core.events import Watcher, ignore
from flyweight.errors import FlyweightError, RequestError
from flyweight.hub import checkpoint
from flyweight.hub.fetch import HUB, imported
from flyweight.report import card
from flyweight.report.summary import FILE, Summary


def find(
    reference: str | Path | Artifact,
    store: Store,
    where: str = "MODEL",
    watch: Watcher = ignore,
    also: Iterable[str] = (),
) -> Artifact:
    """Return the artifact that `reference` names, checked; raise RequestError that lists what could have been meant.

    A Hugging Face model is imported into the runs root first, if it is not there yet. `also` are names beside those of models
    that could have been meant: of configs, for verbs that take one.
    """
    if isinstance(reference, Artifact):
        return reference
    text, path = str(reference), Path(reference)
    for folder in (path, store.root / text):
        if _is_file(folder / "manifest.json"):
            return Artifact.open(folder.resolve())
    if text.startswith(HUB) or (_present(path) and checkpoint.is_checkpoint(path)):
        try:
            return imported(text, store, card.write, watch)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error
    if ":" in text:
        name, _, stage = text.partition(":")
        return _of_recipe(name, stage, store, where)
    if _present(path):
        raise RequestError(
            f"{where}: {path} is neither an artifact of flyweight (it has no manifest.json) nor a Hugging Face model (it has no"
            " config.json with a model_type)"
        )
    raise RequestError(f"{where}: there is no model {text!r}{load.nearest(text, [*also, *_known(store)])}")


def _of_recipe(name: str, stage: str, store: Store, where: str) -> Artifact:
    if not _is_file(store.root / name / FILE):
        finished = [path.parent.name for path in store.root.glob(f"*/{FILE}")]
        raise RequestError(
            f"{where}: no finished recipe {name!r} under {store.root}{load.nearest(name, finished)};"
            f" run it first: flyweight run {name}"
        )
    stages = {made.name: made.id for made in Summary.read(store.root / name).stages}
    if stage not in stages:
        raise RequestError(f"{where}: {name} has no stage {stage!r}{load.nearest(stage, stages)}")
    return Artifact.open(store.root / stages[stage])


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
            found += [f"{path.parent.name}:{made.name}" for made in Summary.read(path.parent).stages]
        except FlyweightError:
            continue  # these names are only suggested; using that run says what is wrong with it
    return found


def is_config(reference: str | Path) -> bool:
    """Return whether a reference names a model config: a YAML file or a name of the catalogue."""
    return str(reference) in catalogue.names() or Path(reference).suffix in (".yaml", ".yml")


def config(reference: str | Path) -> schema.Architecture:
    """Return the model config of a YAML file or of the catalogue, resolved; raise RequestError where it cannot be."""
    if str(reference) in catalogue.names():
        return catalogue.load(str(reference))
    return load.resolved(load.model_config(load.read_yaml(Path(reference)), str(reference)), str(reference))


def listed(store: Store) -> dict[str, Any]:
    """Return what is under a runs root: `items`, the artifacts, `recipes`, `bytes` of the whole root; only manifests are read.

    An item has its size on disk and the recipes that need it (`recipe:stage` for a stage, `recipe` for what was measured or is
    needed to make it; `recipe (unfinished)` and `recipe (earlier)` are runs of that name whose results are not those in its
    folder, and a recipe tells their commands). Its `state` is finished, half-made (with the step of its checkpoint in `step`,
    and whether a process is at it in `being_made`) or damaged (`damaged` says what is wrong, and there are nulls where its
    manifest would tell). Oldest first, then what is half-made, then what is damaged.
    """
    found = references.read(store)
    items = [_item(entry, found.users.get(entry.path.name, [])) for entry in found.entries]
    half = [
        _half_made(path, store, found.users) for path in sorted(store.root.glob(f"*-????????{PARTIAL}")) if _is_partial(path)
    ]
    recipes = [
        {
            "name": recipe.name,
            "created": recipe.created,
            "stages": len(recipe.stages or recipe.named or {name for run in recipe.others for name in run.ids}),
            "bytes": garbage.size(recipe.path),
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
        "bytes": garbage.size(store.root) if store.root.is_dir() else 0,
    }


def _item(entry: Artifact | Damaged, users: list[str]) -> dict[str, Any]:
    item = {"id": entry.path.name, "state": "finished", "stage": None, "created": None, "seconds": None}
    if isinstance(entry, Artifact):
        item |= {"stage": entry.stage, "created": entry.manifest["created"], "seconds": entry.facts["took"]}
    else:
        item["state"] = "damaged"
    damaged = entry.why if isinstance(entry, Damaged) else None
    return {**item, "bytes": garbage.size(entry.path), "used_by": users, "damaged": damaged, "step": None, "being_made": None}


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
        "bytes": garbage.size(path),
        "used_by": users.get(name, []),
        "damaged": None,
        "step": garbage.step_of(path),
        "being_made": usage.held(garbage.lock_of(store.root, name)),
    }
