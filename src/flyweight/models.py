"""What MODEL means: an artifact folder, `RECIPE:STAGE`, a Hugging Face folder or `hf:owner/name`.

For plan, bench and audit it may be a config as well, with random weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.config import load, schema
from flyweight.core.artifact import Artifact, Damaged, Store
from flyweight.core.events import Watcher, ignore
from flyweight.errors import FlyweightError, RequestError
from flyweight.hub import checkpoint
from flyweight.hub.fetch import HUB, imported
from flyweight.model import catalogue
from flyweight.report import study_summary
from flyweight.report.summary import FILE, Summary


def find(reference: str | Path | Artifact, store: Store, where: str = "MODEL", watch: Watcher = ignore) -> Artifact:
    """Return the artifact that `reference` names, checked; raise RequestError that lists what could have been meant.

    A Hugging Face model is imported into the runs root first, if it is not there yet.
    """
    if isinstance(reference, Artifact):
        return reference
    text, path = str(reference), Path(reference)
    for folder in (path, store.root / text):
        if _is_file(folder / "manifest.json"):
            return Artifact.open(folder.resolve())
    if text.startswith(HUB) or (_present(path) and checkpoint.is_checkpoint(path)):
        try:
            return imported(text, store, watch)
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
    raise RequestError(f"{where}: there is no model {text!r}{load.nearest(text, _known(store))}")


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


def listed(store: Store) -> list[dict[str, Any]]:
    """Return every artifact of a runs root, oldest first, with its size and the finished recipes that use it.

    A damaged one, and a recipe's summary that is damaged, is listed with `damaged`, which says what is wrong with it, and nulls
    where its manifest would tell; only manifests are read.
    """
    users: dict[str, list[str]] = {}
    damaged: list[Damaged] = []
    for path in sorted(store.root.glob(f"*/{FILE}")):
        try:
            for made in Summary.read(path.parent).stages:
                users.setdefault(made.id, []).append(f"{path.parent.name}:{made.name}")
        except FlyweightError as error:
            damaged.append(Damaged(path.parent, str(error)))
    for path in sorted(store.root.glob(f"*/{study_summary.FILE}")):
        try:
            for name, made in study_summary.StudySummary.read(path.parent).artifacts():
                users.setdefault(made, []).append(f"{path.parent.name}: {name}")
        except FlyweightError as error:
            damaged.append(Damaged(path.parent, str(error)))
    nothing = {"stage": None, "created": None, "seconds": None, "bytes": None}
    return [
        {
            "id": entry.path.name,
            **(nothing if isinstance(entry, Damaged) else _told(entry)),
            "used_by": users.get(entry.path.name, []),
            "damaged": entry.why if isinstance(entry, Damaged) else None,
        }
        for entry in (*store.entries(), *damaged)
    ]


def _told(artifact: Artifact) -> dict[str, Any]:
    return {
        "stage": artifact.stage,
        "created": artifact.manifest["created"],
        "seconds": artifact.facts["took"],
        "bytes": sum(entry["bytes"] for entry in artifact.manifest["files"].values()),
    }
