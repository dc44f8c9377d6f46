"""Who refers to what under a runs root: recipes to their stages, and through them to all that those were made from.

A recipe's folder tells of one finished run; `other-runs.json` in it names what was made by others
of the same name: by runs that are not finished, and by earlier ones whose results were replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from flyweight.core.files import disk_errors, read_json, sync_folder, write_json
from flyweight.errors import FlyweightError
from flyweight.records.run_summary import FILE, Summary
from flyweight.store.artifact import NAMED, PARTIAL, Artifact, Damaged, Store
from flyweight.store.measurements import subject

OTHERS = "other-runs.json"


class OtherRun(BaseModel):
    """A run whose results are not those in its folder: `ids` are what it made, `work` tells one request from another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    work: str
    finished: bool
    created: str | None = None
    command: str = ""
    ids: tuple[str, ...] = ()

    @property
    def standing(self) -> str:
        """What it is to who looks at the folder: `unfinished`, or `earlier` where it was finished and then replaced."""
        return "earlier" if self.finished else "unfinished"


_OTHERS = TypeAdapter(tuple[OtherRun, ...])


@dataclass(frozen=True)
class Finished:
    """A recipe's folder: `stages` are the ids of its artifacts by stage.

    `damaged` says what is wrong with its summary.

    `named` are all ids that its JSON files name anywhere: a study's cells, and what a damaged
    summary still tells. `created` is None where nothing says it: a run that has no results yet.
    `others` are further runs of that name.
    """

    path: Path
    stages: Mapping[str, str]
    named: frozenset[str] = frozenset()
    created: str | None = None
    command: str = ""
    damaged: str | None = None
    others: tuple[OtherRun, ...] = ()
    request: str = ""
    """Which request the results in the folder answer; empty where they do not say it."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.path.name

    @property
    def results(self) -> frozenset[str]:
        """The ids that the results in the folder name."""
        return self.named | frozenset(self.stages.values())

    def user(self, other: OtherRun) -> str:
        """Return how a user of artifacts is called that is one of the others."""
        return f"{self.name} ({other.standing})"


@dataclass(frozen=True)
class References:
    """Everything under a runs root, and the recipes that need it."""

    entries: tuple[Artifact | Damaged, ...] = ()
    recipes: tuple[Finished, ...] = ()
    users: Mapping[str, list[str]] = field(default_factory=dict)
    """By artifact: `recipe:stage` for a stage, `recipe` for what its stages were made from and what was measured of them.

    `recipe (unfinished)` and `recipe (earlier)` are other runs of that name, where its results do
    not need the artifact.
    """

    @property
    def unreadable(self) -> list[Damaged]:
        """Damaged artifacts that a recipe needs: what they were made from cannot be told."""
        return [
            entry
            for entry in self.entries
            if isinstance(entry, Damaged) and self.users.get(entry.path.name)
        ]


def read(store: Store) -> References:
    """Return what is under a runs root; only manifests and summaries are read."""
    entries, recipes = tuple(store.entries()), tuple(_recipes(store.root))
    known = {entry.id: entry for entry in entries if isinstance(entry, Artifact)}
    users: dict[str, list[str]] = {}
    for recipe in recipes:
        stages = {
            identifier: f"{recipe.name}:{stage}" for stage, identifier in recipe.stages.items()
        }
        needed = reached(recipe.results, known)
        for identifier in needed:
            users.setdefault(identifier, []).append(stages.get(identifier, recipe.name))
        for other in recipe.others:
            for identifier in reached(other.ids, known) - needed:
                named = users.setdefault(identifier, [])
                named += [recipe.user(other)] if recipe.user(other) not in named else []
    return References(entries, recipes, users)


def reached(roots: Iterable[str], known: Mapping[str, Artifact]) -> set[str]:
    """Return the ids of `roots`, of all that they were made from, and of every measurement of any of these, with its text."""
    told = {identifier: subject(artifact.identity) for identifier, artifact in known.items()}
    found: set[str] = set()
    new = set(roots)
    while new:
        found |= new
        parents = {
            name
            for each in new
            if each in known
            for name in known[each].identity["parents"].values()
        }
        measured = {identifier for identifier, of in told.items() if of in found}
        new = {name for name in (parents | measured) if NAMED.fullmatch(name)} - found
    return found


def _recipes(root: Path) -> Iterable[Finished]:
    """Yield every folder with a summary, or whose links or files name artifacts: a study, an unfinished run."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        artifact = NAMED.fullmatch(folder.name.removesuffix(PARTIAL))
        if folder.name.startswith(".") or artifact or folder.is_symlink() or not folder.is_dir():
            continue
        recipe = of(folder)
        if recipe.results or recipe.others or (folder / FILE).is_file():
            yield recipe


def of(folder: Path) -> Finished:
    """Return what a recipe's folder refers to, as far as it tells."""
    links, named, found = _links(folder), _named(_results(folder)), others(folder)
    if not (folder / FILE).is_file():
        created, command, request = _told(folder)
        return Finished(folder, links, named, created, command, others=found, request=request)
    try:
        summary = Summary.read(folder)
    except FlyweightError as error:
        return Finished(folder, links, named, damaged=str(error), others=found)
    stages = {made.name: made.id for made in summary.stages}
    created = summary.created.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Finished(
        folder,
        {**links, **stages},
        named,
        created,
        summary.command,
        others=found,
        request=summary.request,
    )


def others(folder: Path) -> tuple[OtherRun, ...]:
    """Return the other runs that a folder knows of.

    From a damaged list, every id that it still names.
    """
    path = folder / OTHERS
    if not path.is_file():
        return ()
    try:
        return _OTHERS.validate_json(path.read_bytes())
    except ValidationError:
        ids = tuple(sorted(_named([path])))
        return (OtherRun(work="damaged", finished=False, ids=ids),) if ids else ()


def write_others(folder: Path, runs: Collection[OtherRun]) -> None:
    """Replace a folder's list of other runs; without any it has no list."""
    path = folder / OTHERS
    if runs:
        write_json(path, [run.model_dump(mode="json") for run in runs])
        sync_folder(folder)
    elif path.is_file():
        with disk_errors(path):
            path.unlink()


def _results(folder: Path) -> list[Path]:
    """Return the JSON files of a folder that tell of its results."""
    return [
        path for path in sorted(folder.glob("*.json")) if path.is_file() and path.name != OTHERS
    ]


def _named(paths: Iterable[Path]) -> frozenset[str]:
    """Return everything in JSON files that looks like an artifact's id: what is named there is not removed."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return frozenset(name for text in texts for name in re.findall(rf'"({NAMED.pattern})"', text))


def _told(folder: Path) -> tuple[str | None, str, str]:
    """Return when a folder's results were written, by which command and for which request."""
    for path in _results(folder):
        try:
            content = read_json(path)
        except FlyweightError:
            continue  # its own verb says what is wrong with it
        if isinstance(content, dict) and isinstance(content.get("created"), str):
            command, request = (str(content.get(key) or "") for key in ("command", "request"))
            return content["created"], command, request
    return None, "", ""


def _links(folder: Path) -> dict[str, str]:
    """Return where a recipe's links lead: they say what it refers to even where its summary is damaged."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() and NAMED.fullmatch(name := Path(os.readlink(path)).name):
            found[path.name] = name
    return found
