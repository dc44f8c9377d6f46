"""Find which recipes need which artifacts under a runs root: their stages and all parents.

A recipe's folder holds the results of one finished run. `other-runs.json` in it names the artifacts
of other runs of the same name: unfinished ones, and earlier ones whose results were replaced.
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
    """A run whose results are not those in its folder.

    `ids` are the artifacts that it made or needs. `work` is a digest of its request.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    work: str
    finished: bool
    created: str | None = None
    command: str = ""
    ids: tuple[str, ...] = ()

    @property
    def standing(self) -> str:
        """`unfinished`, or `earlier` for a finished run whose results were replaced."""
        return "earlier" if self.finished else "unfinished"


_OTHERS = TypeAdapter(tuple[OtherRun, ...])


@dataclass(frozen=True)
class RunReferences:
    """A recipe's folder: `stages` are the ids of its artifacts by stage.

    `named` are all ids that its JSON files name anywhere: those of a study's cells, and those that
    are still readable in a damaged summary. `created` is None for a run without results. `damaged`
    says what is wrong with its summary. `others` are further runs of that name.
    """

    path: Path
    stages: Mapping[str, str]
    named: frozenset[str] = frozenset()
    created: str | None = None
    command: str = ""
    damaged: str | None = None
    others: tuple[OtherRun, ...] = ()
    request: str = ""
    """The request that the results in the folder answer; empty where it is unknown."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.path.name

    @property
    def results(self) -> frozenset[str]:
        """The ids that the results in the folder name."""
        return self.named | frozenset(self.stages.values())

    def user(self, other: OtherRun) -> str:
        """Return the name under which one of the others is listed as a user of artifacts."""
        return f"{self.name} ({other.standing})"


@dataclass(frozen=True)
class References:
    """Everything under a runs root, and the recipes that need it."""

    entries: tuple[Artifact | Damaged, ...] = ()
    recipes: tuple[RunReferences, ...] = ()
    users: Mapping[str, list[str]] = field(default_factory=dict)
    """The users of each artifact, by its id.

    A user is `recipe:stage` for a stage, `recipe` for a parent or a measurement of its stages.
    `recipe (unfinished)` and `recipe (earlier)` are other runs of that name: they are listed where
    the recipe's results do not need the artifact.
    """

    @property
    def unreadable(self) -> list[Damaged]:
        """Damaged artifacts that a recipe needs: their parents are unknown."""
        return [
            entry
            for entry in self.entries
            if isinstance(entry, Damaged) and self.users.get(entry.path.name)
        ]


def read(store: Store) -> References:
    """Return what is under a runs root; only manifests and summaries are read."""
    entries, recipes = tuple(store.entries()), tuple(_recipes(store.root))
    artifacts = {entry.id: entry for entry in entries if isinstance(entry, Artifact)}
    users: dict[str, list[str]] = {}
    for recipe in recipes:
        stages = {
            identifier: f"{recipe.name}:{stage}" for stage, identifier in recipe.stages.items()
        }
        needed = reachable(recipe.results, artifacts)
        for identifier in needed:
            users.setdefault(identifier, []).append(stages.get(identifier, recipe.name))
        for other in recipe.others:
            for identifier in reachable(other.ids, artifacts) - needed:
                names = users.setdefault(identifier, [])
                if recipe.user(other) not in names:
                    names.append(recipe.user(other))
    return References(entries, recipes, users)


def reachable(roots: Iterable[str], artifacts: Mapping[str, Artifact]) -> set[str]:
    """Return the ids of `roots`, of all their ancestors, and of the measurements of any of these.

    The ancestors of those measurements, such as their texts, are included.
    """
    subjects = {
        identifier: subject(artifact.identity) for identifier, artifact in artifacts.items()
    }
    needed: set[str] = set()
    new = set(roots)
    while new:
        needed |= new
        parents = {
            name
            for identifier in new
            if identifier in artifacts
            for name in artifacts[identifier].identity["parents"].values()
        }
        measurements = {identifier for identifier, of in subjects.items() if of in needed}
        new = {name for name in (parents | measurements) if NAMED.fullmatch(name)} - needed
    return needed


def _recipes(root: Path) -> Iterable[RunReferences]:
    """Yield every folder with a summary, or whose links or files name artifacts.

    The latter are studies and unfinished runs.
    """
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        artifact = NAMED.fullmatch(folder.name.removesuffix(PARTIAL))
        if folder.name.startswith(".") or artifact or folder.is_symlink() or not folder.is_dir():
            continue
        recipe = of(folder)
        if recipe.results or recipe.others or (folder / FILE).is_file():
            yield recipe


def of(folder: Path) -> RunReferences:
    """Return what a recipe's folder refers to, as far as its links and files say."""
    links = _links(folder)
    named = _ids_in(_results(folder))
    other_runs = others(folder)
    if not (folder / FILE).is_file():
        created, command, request = _origin(folder)
        return RunReferences(
            path=folder,
            stages=links,
            named=named,
            created=created,
            command=command,
            others=other_runs,
            request=request,
        )
    try:
        summary = Summary.read(folder)
    except FlyweightError as error:
        return RunReferences(
            path=folder, stages=links, named=named, damaged=str(error), others=other_runs
        )
    return RunReferences(
        path=folder,
        stages={**links, **{stage.name: stage.id for stage in summary.stages}},
        named=named,
        created=summary.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=summary.command,
        others=other_runs,
        request=summary.request,
    )


def others(folder: Path) -> tuple[OtherRun, ...]:
    """Return the other runs that a folder lists.

    For a damaged list, return one run with every id that it still names.
    """
    path = folder / OTHERS
    if not path.is_file():
        return ()
    try:
        return _OTHERS.validate_json(path.read_bytes())
    except ValidationError:
        ids = tuple(sorted(_ids_in([path])))
        if not ids:
            return ()
        return (OtherRun(work="damaged", finished=False, ids=ids),)


def write_others(folder: Path, runs: Collection[OtherRun]) -> None:
    """Replace a folder's list of other runs; remove it where there are none."""
    path = folder / OTHERS
    if runs:
        write_json(path, [run.model_dump(mode="json") for run in runs])
        sync_folder(folder)
    elif path.is_file():
        with disk_errors(path):
            path.unlink()


def _results(folder: Path) -> list[Path]:
    """Return the JSON files of a folder that hold its results."""
    return [
        path for path in sorted(folder.glob("*.json")) if path.is_file() and path.name != OTHERS
    ]


def _ids_in(paths: Iterable[Path]) -> frozenset[str]:
    """Return everything in JSON files that looks like an artifact's id."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return frozenset(name for text in texts for name in re.findall(rf'"({NAMED.pattern})"', text))


def _origin(folder: Path) -> tuple[str | None, str, str]:
    """Return when a folder's results were written, by which command and for which request."""
    for path in _results(folder):
        try:
            content = read_json(path)
        except FlyweightError:
            continue  # the command that shows these results says what is wrong with them
        if isinstance(content, dict) and isinstance(content.get("created"), str):
            command, request = (str(content.get(key) or "") for key in ("command", "request"))
            return content["created"], command, request
    return None, "", ""


def _links(folder: Path) -> dict[str, str]:
    """Return the artifacts that a recipe's links lead to; a damaged summary does not matter."""
    if not folder.is_dir():
        return {}
    links = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and NAMED.fullmatch(name := Path(os.readlink(path)).name):
            links[path.name] = name
    return links
