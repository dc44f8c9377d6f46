"""What a run has made before it is finished: noted in its folder from its start on, so that it is not taken for garbage.

    runs/<name>/other-runs.json    what unfinished runs of that name have made, and earlier ones whose results were replaced

An id is noted before its artifact is begun, and a run's entry goes only after its results are
written: a kill at any instant leaves nothing that was made for it without somebody who needs it.
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
    """Return whether a recipe's folder is free for a request: it is empty, or knows this one."""
    recipe = references.of(folder)
    requests = {run.work for run in recipe.others if not run.finished}
    if recipe.results:
        requests.add(recipe.request)
    return not requests or work in requests


@dataclass
class Unfinished:
    """One run on its way: `work` is a digest of what was asked for, so that the same request goes on with its own entry.

    Within `with` it notes what is made. A run that ends by an error before anything was made leaves
    no folder.
    """

    store: Store
    name: str
    work: str
    command: str = ""
    watch: Watcher = ignore
    ids: set[str] = field(default_factory=set)
    noted: bool = False

    def note(self, identity: Identity) -> None:
        """Keep what is about to be made, or found, and what it is made from.

        A measurement is kept by what it tells of.
        """
        own = () if is_measurement(identity.stage) else (identity.id,)
        new = {*identity.parents.values(), *own} - self.ids
        if not new:
            return
        self.ids |= new
        if new <= references.of(self.store.root / self.name).results:
            return  # the results that are there keep it, and `results` of another run sees to it that this stays so
        with self.store.recipe_folder(self.name, self.watch) as folder:
            self.noted, runs = True, references.others(folder)
            mine = next((run for run in runs if run.work == self.work), None)
            mine = mine or OtherRun(
                work=self.work, finished=False, created=_now(), command=self.command
            )
            if not new <= set(mine.ids):
                mine = mine.model_copy(
                    update={"ids": tuple(dict.fromkeys((*mine.ids, *sorted(new))))}
                )
                references.write_others(
                    folder, [*(run for run in runs if run.work != self.work), mine]
                )

    def warn_of_replacing(self) -> None:
        """Say before any work that results of another request stand under this name."""
        earlier = references.of(self.store.root / self.name)
        if earlier.results and earlier.request not in ("", self.work):
            fields = {"name": self.name, "command": earlier.command or "unknown command"}
            self.watch("replacing", fields)

    def replace(self, folder: Path) -> None:
        """Keep what the results in `folder` refer to and this run's will not.

        Called before they are replaced.
        """
        before = references.of(folder)
        kept = {identifier for run in before.others if run.finished for identifier in run.ids}
        if not before.results - self.ids - kept:
            return
        lost = before.results - references.reached(self.ids, self._known()) - kept
        ids = tuple(
            sorted(identifier for identifier in lost if (self.store.root / identifier).exists())
        )
        if ids:
            earlier = OtherRun(
                work="", finished=True, created=before.created, command=before.command, ids=ids
            )
            references.write_others(folder, (*before.others, earlier))

    def done(self, folder: Path) -> None:
        """End the entry of this run, whose results are in `folder` now.

        Of others stays what these results do not need.
        """
        runs = references.others(folder)
        if not runs:
            return
        needed = references.reached(references.of(folder).results | self.ids, self._known())
        left = [
            run.model_copy(update={"ids": tuple(self._there(set(run.ids) - needed))})
            for run in runs
        ]
        references.write_others(folder, [run for run in left if run.ids])

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.noted:
            with suppress(
                FlyweightError, OSError
            ):  # the error that ended the run is the one to tell
                self._ended(isinstance(error, RequestError))

    def _ended(self, refused: bool) -> None:
        """Forget a run that has made nothing.

        For a request that was refused, its packed text alone is nothing either.
        """
        with self.store.recipe_folder(self.name, self.watch) as folder:
            runs = references.others(folder)
            kept = [run for run in runs if run.work != self.work or self._made(run, refused)]
            if len(kept) < len(runs):
                references.write_others(folder, kept)
            if not any(folder.iterdir()):
                folder.rmdir()

    def _made(self, run: OtherRun, refused: bool) -> bool:
        return any(
            not (refused and identifier.startswith("corpus-"))
            for identifier in self._there(run.ids)
        )

    def _there(self, ids: Iterable[str]) -> list[str]:
        """Return which artifacts are there, or half-made with a checkpoint."""
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
