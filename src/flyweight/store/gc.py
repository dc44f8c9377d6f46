"""Remove what no recipe and no unfinished run refers to.

That is unreferenced artifacts, half-made ones that no process is making, and free lock files.

A folder is renamed to `.<name>.trash` first and deleted then. A kill leaves no folder that could be
taken for whole, and the next collection finishes the removal. Meanwhile no other process works in
the root (`store.locks`). Links are not followed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flyweight.config.units import format_size
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import disk_errors, read_json, sync_folder
from flyweight.core.pinned import PinnedFolder
from flyweight.errors import FlyweightError
from flyweight.store import locks, references
from flyweight.store.artifact import LOCKS, NAMED, PARTIAL, STATE, Artifact, Damaged, Store
from flyweight.store.measurements import is_measurement, subject
from flyweight.store.references import OtherRun, References, RunReferences

TRASH = ".trash"
Kind = Literal["artifact", "damaged", "half-made", "trash", "leftover", "lock"]


@dataclass(frozen=True)
class Item:
    """One thing that nobody needs, with its bytes on disk.

    `created` is when it was made, or last written to.
    """

    path: Path
    kind: Kind
    bytes: int
    created: str
    why: str

    def json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.path.name,
            "kind": self.kind,
            "bytes": self.bytes,
            "created": self.created,
            "why": self.why,
        }


@dataclass(frozen=True)
class Garbage:
    """What would be removed, or was removed; `kept` says what has to stay and why."""

    items: tuple[Item, ...]
    kept: tuple[str, ...] = ()
    removed: bool = False

    @property
    def bytes(self) -> int:
        """The bytes of all items together."""
        return sum(item.bytes for item in self.items)

    def json(self) -> dict[str, Any]:
        """Return it as plain data."""
        items = [item.json() for item in self.items]
        return {
            "items": items,
            "bytes": self.bytes,
            "kept": list(self.kept),
            "removed": self.removed,
        }


def find(store: Store, older_than: float = 0.0) -> Garbage:
    """Return what nobody needs and was made more than `older_than` seconds ago.

    Nothing is changed.
    """
    before = _date(time.time() - older_than) if older_than else "9"
    uses = references.read(store)
    damaged = [
        f"{entry.path.name} is damaged, and {', '.join(uses.users[entry.path.name])} refers to it. "
        f"Its parents are unknown, so only measurements are removed. Delete the folder "
        f"{entry.path} and run the recipe again"
        for entry in uses.unreadable
    ]
    items = [
        *_unreferenced(uses, before, measurements_only=bool(damaged)),
        *_leftovers(store.root, before, _awaited(uses)),
    ]
    items += _locks(store.root, before, {item.path.name.removesuffix(PARTIAL) for item in items})
    return Garbage(tuple(items), (*damaged, *_other_runs(store.root, uses)))


def collect(
    store: Store,
    among: Collection[str] | None = None,
    older_than: float = 0.0,
    watch: Watcher = ignore,
) -> Garbage:
    """Remove what nobody needs and return it; `among` limits it to some names.

    Raises FlyweightError where another process works in the root, or where something cannot be
    removed.
    """
    with locks.alone(store, watch):
        garbage = find(store, older_than)
        items = [item for item in garbage.items if among is None or item.path.name in among]
        with disk_errors(store.root):
            trash = [_discard(item, store.root) for item in items]
            sync_folder(store.root)
            for path in trash:
                if path.parent == store.root:
                    _delete(path)
                else:
                    with PinnedFolder(path.parent) as place:
                        _delete(place.path / path.name)
    return Garbage(tuple(items), garbage.kept, removed=True)


# --- what nobody needs ---


def _unreferenced(uses: References, before: str, measurements_only: bool) -> Iterator[Item]:
    """Yield artifacts that no recipe reaches, the newest first.

    In that order a kill never leaves an artifact without its parents.
    """
    artifacts = {entry.id: entry for entry in uses.entries if isinstance(entry, Artifact)}
    young = [name for name, artifact in artifacts.items() if artifact.manifest["created"] >= before]
    needed = uses.users.keys() | references.reachable(young, artifacts)
    for entry in reversed(uses.entries):
        if entry.path.name in needed:
            continue
        if isinstance(entry, Damaged):
            if (changed := _changed(entry.path)) < before:
                yield Item(
                    entry.path,
                    "damaged",
                    size(entry.path),
                    changed,
                    f"damaged, and no recipe refers to it: {entry.why}",
                )
        elif not measurements_only or is_measurement(entry.stage):
            yield Item(
                entry.path, "artifact", size(entry.path), entry.manifest["created"], _why(entry)
            )


def _why(artifact: Artifact) -> str:
    if artifact.path.is_symlink():
        return "no recipe refers to it; only the link goes"
    if artifact.stage == "import":
        return f"imported from {artifact.facts.get('source', 'elsewhere')}; no recipe refers to it"
    if is_measurement(artifact.stage):
        return f"measured of {subject(artifact.identity)}"
    return "no recipe refers to it"


def _awaited(uses: References) -> set[str]:
    """Return the ids that unfinished runs have begun.

    Such a run goes on from the checkpoint of a half-made one.
    """
    return {
        name
        for recipe in uses.recipes
        for run in recipe.others
        if not run.finished
        for name in run.ids
    }


def _other_runs(root: Path, uses: References) -> Iterator[str]:
    """Yield a sentence on what is kept for other runs alone, and how to have it removed."""
    for recipe in uses.recipes:
        for standing in dict.fromkeys(run.standing for run in recipe.others):
            runs = [run for run in recipe.others if run.standing == standing]
            whole = [
                root / name for name, users in uses.users.items() if users == [recipe.user(runs[0])]
            ]
            half = [
                root / f"{name}{PARTIAL}" for run in runs if not run.finished for name in run.ids
            ]
            paths = [path for path in (*whole, *half) if path.exists()]
            if paths:
                yield _kept_for(recipe, runs, paths)


def _kept_for(recipe: RunReferences, runs: Sequence[OtherRun], paths: Sequence[Path]) -> str:
    commands = " or ".join(
        f"`{command}`" for command in dict.fromkeys(run.command for run in runs) if command
    )
    plural = "" if len(paths) == 1 else "s"
    artifacts = f"{len(paths)} artifact{plural} ({format_size(sum(map(size, paths)))})"
    reference = recipe.path / references.OTHERS if recipe.results else recipe.path
    if runs[0].standing == "unfinished":
        return (
            f"{recipe.name} is unfinished, and {artifacts} wait for it: "
            f"{commands or 'its command'} goes on from there; delete {reference} to give that up"
        )
    by = f" ({commands})" if commands else ""
    return (
        f"{recipe.name} had earlier results{by}, and {artifacts} are kept of them; delete "
        f"{reference} to let them go"
    )


def _leftovers(root: Path, before: str, awaited: Collection[str]) -> Iterator[Item]:
    """Yield what killed processes left: half-made artifacts, half-written files, trash."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        stem, kind, reason = path.name.removesuffix(PARTIAL), None, ""
        if path.name.startswith(".") and path.name.endswith(TRASH):
            kind, reason = "trash", "an earlier collection was killed before it had deleted this"
        elif (
            path.name.endswith(PARTIAL)
            and NAMED.fullmatch(stem)
            and not (stem in awaited or locks.held(lock_of(root, stem)))
        ):
            kind, reason = "half-made", _half(path)
        if kind and (changed := _changed(path)) < before:
            yield Item(path, kind, size(path), changed, reason)
    for path in sorted(root.glob(f"*/.*{PARTIAL}")):
        if (
            not path.parent.is_symlink()
            and not locks.held(lock_of(root, path.parent.name))
            and _changed(path) < before
        ):
            yield Item(
                path,
                "leftover",
                size(path),
                _changed(path),
                f"a half-written file in {path.parent.name}",
            )


def _locks(root: Path, before: str, going: Collection[str]) -> Iterator[Item]:
    """Yield the lock files that nobody holds and nobody needs.

    They guard nothing, or only the names that are `going`, which are about to be removed.
    """
    folder = root / LOCKS
    if folder.is_symlink():
        return
    for path in sorted(folder.glob("*.lock")):
        guarded = (root / path.stem, root / f"{path.stem}{PARTIAL}")
        needed = path.stem not in going and any(place.exists() for place in guarded)
        if (
            not needed
            and path.stem != locks.GATE
            and not locks.held(path)
            and _changed(path) < before
        ):
            yield Item(path, "lock", size(path), _changed(path), "nobody holds it")


def _half(path: Path) -> str:
    step = step_of(path)
    if (path / "manifest.json").is_file():
        return "whole, but killed before it was published; its command would only do that"
    if step is None:
        return "half-made"
    return f"half-made; its command would go on from step {step}"


def step_of(partial: Path) -> int | None:
    """Return the step of a half-made artifact's checkpoint; None without a readable one."""
    try:
        return read_json(partial / STATE / "current.json")["progress"]["step"]
    except (FlyweightError, KeyError, TypeError):
        return None


def lock_of(root: Path, name: str) -> Path:
    """Return the lock file of an artifact or recipe."""
    return root / LOCKS / f"{name}.lock"


def size(path: Path) -> int:
    """Return the bytes of a file, or of a folder with everything in it.

    A link counts with its own bytes alone.
    """
    if path.is_symlink() or not path.is_dir():
        return _stat(path)[0]
    return sum(
        _stat(Path(folder) / name)[0] for folder, _, names in os.walk(path) for name in names
    )


def _changed(path: Path) -> str:
    """Return when a file, or anything in a folder, was last written."""
    places = [path]
    if path.is_dir() and not path.is_symlink():
        places += [Path(folder) for folder, _, _ in os.walk(path)]
    return _date(max(_stat(place)[1] for place in places))


def _stat(path: Path) -> tuple[int, float]:
    """Return the size and the time of the last change; zeros for a file that is gone."""
    try:
        stat = path.lstat()
    except FileNotFoundError:
        return 0, 0.0
    return stat.st_size, stat.st_mtime


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- removing ---


def _discard(item: Item, root: Path) -> Path:
    """Rename an artifact's folder out of sight; return the path that is left to delete."""
    if item.kind not in ("artifact", "damaged", "half-made"):
        return item.path
    trash = root / f".{item.path.name}{TRASH}"
    _delete(trash)
    os.rename(item.path, trash)
    return trash


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
