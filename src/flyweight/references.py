"""Who refers to what under a runs root: finished recipes to their stages, and through them to all that those were made from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flyweight.core.artifact import NAMED, PARTIAL, Artifact, Damaged, Store
from flyweight.core.files import read_json
from flyweight.errors import FlyweightError
from flyweight.report.measured import subject
from flyweight.report.summary import FILE, Summary


@dataclass(frozen=True)
class Finished:
    """A recipe's folder: `stages` are the ids of its artifacts by stage; `damaged` says what is wrong with its summary.

    `named` are all ids that its JSON files name anywhere: a study's cells, and what a damaged summary still tells. `created` is
    None where nothing says it: a run that was killed just before it wrote its summary.
    """

    path: Path
    stages: Mapping[str, str]
    named: frozenset[str] = frozenset()
    created: str | None = None
    command: str = ""
    damaged: str | None = None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.path.name


@dataclass(frozen=True)
class References:
    """Everything under a runs root, and the recipes that need it."""

    entries: tuple[Artifact | Damaged, ...] = ()
    recipes: tuple[Finished, ...] = ()
    users: Mapping[str, list[str]] = field(default_factory=dict)
    """By artifact: `recipe:stage` for a stage, `recipe` for what its stages were made from and what was measured of them."""

    @property
    def unreadable(self) -> list[Damaged]:
        """Damaged artifacts that a recipe needs: what they were made from cannot be told."""
        return [entry for entry in self.entries if isinstance(entry, Damaged) and self.users.get(entry.path.name)]


def read(store: Store) -> References:
    """Return what is under a runs root; only manifests and summaries are read."""
    entries, recipes = tuple(store.entries()), tuple(_recipes(store.root))
    known = {entry.id: entry for entry in entries if isinstance(entry, Artifact)}
    users: dict[str, list[str]] = {}
    for recipe in recipes:
        stages = {identifier: f"{recipe.name}:{stage}" for stage, identifier in recipe.stages.items()}
        for identifier in reached(stages.keys() | recipe.named, known):
            users.setdefault(identifier, []).append(stages.get(identifier, recipe.name))
    return References(entries, recipes, users)


def reached(roots: Iterable[str], known: Mapping[str, Artifact]) -> set[str]:
    """Return the ids of `roots`, of all that they were made from, and of every measurement of any of these, with its text."""
    told = {identifier: subject(artifact.identity) for identifier, artifact in known.items()}
    found: set[str] = set()
    new = set(roots)
    while new:
        found |= new
        parents = {name for each in new if each in known for name in known[each].identity["parents"].values()}
        measured = {identifier for identifier, of in told.items() if of in found}
        new = {name for name in (parents | measured) if NAMED.fullmatch(name)} - found
    return found


def _recipes(root: Path) -> Iterable[Finished]:
    """Yield every folder with a summary, or whose links or files name artifacts: a study, a recipe killed before its end."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        artifact = NAMED.fullmatch(folder.name.removesuffix(PARTIAL))
        if folder.name.startswith(".") or artifact or folder.is_symlink() or not folder.is_dir():
            continue
        links, named = _links(folder), _named(folder)
        if not (folder / FILE).is_file():
            if links or named:
                yield Finished(folder, links, named, _created(folder))
            continue
        try:
            summary = Summary.read(folder)
        except FlyweightError as error:
            yield Finished(folder, links, named, damaged=str(error))
            continue
        stages = {made.name: made.id for made in summary.stages}
        yield Finished(folder, {**links, **stages}, named, summary.created.strftime("%Y-%m-%dT%H:%M:%SZ"), summary.command)


def _named(folder: Path) -> frozenset[str]:
    """Return everything in a folder's JSON files that looks like an artifact's id: what is named there is not removed."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*.json") if path.is_file())
    return frozenset(name for text in texts for name in re.findall(rf'"({NAMED.pattern})"', text))


def _created(folder: Path) -> str | None:
    """Return when a folder's results were written, as they tell it themselves."""
    for path in folder.glob("*.json"):
        try:
            content = read_json(path)
        except FlyweightError:
            continue  # its own verb says what is wrong with it
        if isinstance(content, dict) and isinstance(content.get("created"), str):
            return content["created"]
    return None


def _links(folder: Path) -> dict[str, str]:
    """Return where a recipe's links lead: they say what it refers to even where its summary is damaged."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and NAMED.fullmatch(name := Path(os.readlink(path)).name):
            found[path.name] = name
    return found
