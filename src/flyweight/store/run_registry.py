"""Note what an unfinished run has made in its folder; it is then not taken for garbage.

    runs/<name>/other-runs.json    the artifacts of unfinished runs of that name, and of earlier
                                   runs whose results were replaced

An id is noted before its artifact is begun. A run's entry is removed only after its results are
written. A kill at any instant then leaves no artifact of the run unlisted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from flyweight.core.events import Watcher, ignore
from flyweight.errors import FlyweightError, RequestError
from flyweight.store import references
from flyweight.store.artifact import PARTIAL, STATE, Artifact, Identity, Store
from flyweight.store.measurements import is_measurement
from flyweight.store.references import OtherRun


def knows_only(folder: Path, work: str) -> bool:
    """Return whether a recipe's folder is free for a request: it knows no other request."""
    recipe = references.of(folder)
    requests = {run.work for run in recipe.others if not run.finished}
    if recipe.results:
        requests.add(recipe.request)
    return not requests or work in requests


@dataclass
class RunRegistry:
    """One run in progress; within `with` it notes what it makes.

    `work` is a digest of the request: the same request goes on with its own entry. A run that ends
    by an error before it has made anything leaves no folder.
    """

    store: Store
    name: str
    work: str
    command: str = ""
    watch: Watcher = ignore
    ids: set[str] = field(default_factory=set)
    noted: bool = False

    def note(self, identity: Identity) -> None:
        """List an artifact that the run is about to make or reuse, and its parents.

        A measurement itself is not listed: the artifact that it measures keeps it.
        """
        itself = () if is_measurement(identity.stage) else (identity.id,)
        new = {*identity.parents.values(), *itself} - self.ids
        if not new:
            return
        self.ids |= new
        if new <= references.of(self.store.root / self.name).results:
            return  # the results that are there keep it; `replace` of another run lists it then
        with self.store.recipe_folder(self.name, self.watch) as place:
            self.noted = True
            runs = references.others(place.path)
            mine = next((run for run in runs if run.work == self.work), None)
            if mine is None:
                mine = OtherRun(
                    work=self.work, finished=False, created=_now(), command=self.command
                )
            if not new <= set(mine.ids):
                ids = tuple(dict.fromkeys((*mine.ids, *sorted(new))))
                mine = mine.model_copy(update={"ids": ids})
                rest = [run for run in runs if run.work != self.work]
                references.write_others(place.path, [*rest, mine])

    def warn_of_replacing(self) -> None:
        """Say before any work that this run will replace the results of another request."""
        earlier = references.of(self.store.root / self.name)
        if earlier.results and earlier.request not in ("", self.work):
            fields = {"name": self.name, "command": earlier.command or "unknown command"}
            self.watch("replacing", fields)

    def replace(self, folder: Path) -> None:
        """List what the results in `folder` need and this run does not.

        Call this before the results are replaced.
        """
        before = references.of(folder)
        needed_by_others = {
            identifier for run in before.others if run.finished for identifier in run.ids
        }
        if not before.results - self.ids - needed_by_others:
            return
        lost = before.results - references.reachable(self.ids, self._known()) - needed_by_others
        ids = tuple(
            sorted(identifier for identifier in lost if (self.store.root / identifier).exists())
        )
        if ids:
            earlier = OtherRun(
                work="", finished=True, created=before.created, command=before.command, ids=ids
            )
            references.write_others(folder, (*before.others, earlier))

    def done(self, folder: Path) -> None:
        """Remove this run's entry: its results are in `folder` now.

        Entries of other runs keep what these results do not need.
        """
        runs = references.others(folder)
        if not runs:
            return
        needed = references.reachable(references.of(folder).results | self.ids, self._known())
        rest = [
            run.model_copy(update={"ids": tuple(self._existing(set(run.ids) - needed))})
            for run in runs
        ]
        references.write_others(folder, [run for run in rest if run.ids])

    def __enter__(self) -> RunRegistry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.noted:
            # The error that ended the run is the one to report.
            with suppress(FlyweightError, OSError):
                self._forget_without_work(isinstance(error, RequestError))

    def _forget_without_work(self, refused: bool) -> None:
        """Remove this run's entry where it has made nothing.

        For a request that was refused, a packed text alone counts as nothing.
        """
        with self.store.recipe_folder(self.name, self.watch) as place:
            runs = references.others(place.path)
            with_work = [
                run for run in runs if run.work != self.work or self._has_work(run, refused)
            ]
            if len(with_work) < len(runs):
                references.write_others(place.path, with_work)
            if not any(place.path.iterdir()):
                place.folder.rmdir()

    def _has_work(self, run: OtherRun, refused: bool) -> bool:
        return any(
            not (refused and identifier.startswith("corpus-"))
            for identifier in self._existing(run.ids)
        )

    def _existing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids of artifacts that exist, or are half-made with a checkpoint."""
        root = self.store.root
        places = {
            identifier: (root / identifier, root / f"{identifier}{PARTIAL}" / STATE)
            for identifier in sorted(ids)
        }
        return [
            identifier
            for identifier, paths in places.items()
            if any(path.exists() for path in paths)
        ]

    def _known(self) -> dict[str, Artifact]:
        return {artifact.id: artifact for artifact in self.store.artifacts()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
