"""Tell trackers a whole run as one run of theirs: curves, recipe, tags, tables and numbers.

    runs/<name>/<tracker>-<request>.tracked    the tracker's run, and how far it was told: JSON

It has no suffix of results, whose ids are kept from `gc`. A run that goes on after a kill goes on
with the same tracker's run, from where it was. A curve of a stage that was there already is told
from its log.
"""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flyweight.api.tracked_results import numbers, plain_tables
from flyweight.api.trackers import TRACKERS, TrackedRun, Tracker
from flyweight.config.schema import Recipe
from flyweight.core.events import Watcher, read_events
from flyweight.core.files import read_json, write_json
from flyweight.core.machine import libraries
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.run_summary import Summary
from flyweight.reports.report import RunReport
from flyweight.store.artifact import EVENTS, PARTIAL
from flyweight.store.stage import Context

KINDS = {"step": "train", "validation": "validation"}
"""Events that are points of a curve, and what their numbers are called after the stage."""
SAVE_EVERY = 2.0
"""Seconds between notes; a run that is killed tells so much again, over the same steps."""
OWN = ("event", "at", "step")
"""Fields of an event that are no numbers of a curve."""


def check_installed(names: Sequence[str]) -> None:
    """Raise RequestError for a tracker that is not installed."""
    for name in names:
        TRACKERS[name].load(name)


@dataclass
class Told:
    """How far a tracker was told: its run's id, and the last step of each curve by artifact."""

    path: Path
    run: str
    last: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    saved: float = -math.inf

    @classmethod
    def of(cls, path: Path, request: str) -> Told:
        """Return what an earlier process of the same request noted, or a new note.

        Raises RequestError for a file that holds no such note.
        """
        if not path.is_file():
            return cls(path, f"{request}-{secrets.token_hex(3)}")
        try:
            note = read_json(path)
            return cls(path, str(note["run"]), {key: dict(of) for key, of in note["last"].items()})
        except (FlyweightError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(
                f"{path} does not say how far a tracker was told; delete it and run again"
            ) from error

    def is_new(self, artifact: str, kind: str, step: int) -> bool:
        """Return whether a point was not told yet."""
        return step > self.last.get(artifact, {}).get(kind, -1)

    def note(self, artifact: str, kind: str, step: int) -> None:
        """Remember that a point was told, and write it down where that is some time ago."""
        self.last.setdefault(artifact, {})[kind] = step
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the note, once the run has a folder: a run that made nothing leaves none."""
        if self.path.parent.is_dir():
            write_json(self.path, {"run": self.run, "last": self.last})
            self.saved = time.monotonic()


@dataclass
class Tracking:
    """A watcher of a run's events that passes them on, and tells the trackers the curves.

    A tracker that fails is told nothing more, and `watch` hears why.
    """

    root: Path
    watch: Watcher
    trackers: dict[str, Tracker] = field(default_factory=dict[str, Tracker])
    told: dict[str, Told] = field(default_factory=dict[str, Told])
    stage: str = ""
    artifact: str = ""

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Take one event."""
        self.watch(kind, fields)
        if kind == "stage":
            self.stage, self.artifact = fields["name"], fields.get("id", "")
        elif kind == "resumed":
            self._from_log(f"{self.artifact}{PARTIAL}")
        elif kind == "made":
            if fields["reused"]:
                self._from_log(self.artifact)
            self._note()
        elif kind in KINDS:
            self._point(kind, fields)

    def results(self, summary: Summary) -> None:
        """Tell the report's tables, and every number in them."""
        report = RunReport((summary,))
        shown, figures = plain_tables(report), numbers(report)
        for name in self.told:
            self._tell(name, lambda tracker: tracker.results(shown, figures))

    def close(self, failed: bool) -> None:
        """End the trackers' runs."""
        self._note()
        for name in self.told:
            self._tell(name, lambda tracker: tracker.close(failed))

    def _point(self, kind: str, fields: Mapping[str, Any]) -> None:
        step, stage, artifact = int(fields["step"]), self.stage, self.artifact
        values = {name: float(value) for name, value in fields.items() if name not in OWN}
        for name, told in self.told.items():
            if not told.is_new(artifact, kind, step):
                continue
            self._tell(name, lambda tracker: tracker.log(stage, KINDS[kind], values, step))
            if name in self.trackers:
                told.note(artifact, kind, step)

    def _from_log(self, folder: str) -> None:
        """Tell what a stage's log has and trackers were not told yet."""
        path = self.root / folder / EVENTS
        if not self.trackers or not path.is_file():
            return
        try:
            events = read_events(path)
        except FlyweightError as error:
            self.watch("remark", {"name": self.stage, "remark": f"its curve is not told: {error}"})
            return
        for event in events:
            if event.get("event") in KINDS:
                self._point(str(event["event"]), event)

    def _note(self) -> None:
        for told in self.told.values():
            told.save()

    def _tell(self, name: str, what: Callable[[Tracker], None]) -> None:
        """Tell a tracker something; one that raises is given up, and the run goes on."""
        if name not in self.trackers:
            return
        try:
            with _stdout_kept():
                what(self.trackers[name])
        except Exception as error:  # of any kind, as the library is another's
            del self.trackers[name]
            self.watch("untracked", {"tracker": name, "why": _why(error)})


@contextmanager
def tracked(recipe: Recipe, context: Context, request: str) -> Iterator[Tracking]:
    """Yield the watcher that tells the recipe's trackers; their runs end with the block.

    Raises RequestError for a tracker that cannot begin: nothing is trained without it.
    """
    tracking = Tracking(context.store.root, context.watch)
    failed = True
    try:
        for name in recipe.trackers:
            _begin(tracking, name, recipe, request)
        yield tracking
        failed = False
    finally:
        tracking.close(failed)


def _begin(tracking: Tracking, name: str, recipe: Recipe, request: str) -> None:
    library = TRACKERS[name]
    folder = tracking.root / recipe.name
    told = Told.of(folder / f"{name}-{request}.tracked", request)
    config = recipe.model_dump(mode="json", exclude={"trackers"})
    run = TrackedRun(recipe.name, told.run, config, tags(recipe))
    try:
        with _stdout_kept():
            tracker = library.start(library.load(name), run)
    except Exception as error:  # of any kind, as the library is another's
        raise RequestError(
            f"trackers: {name} cannot begin ({_why(error)}); {library.otherwise}leave it out"
        ) from error
    tracking.trackers[name], tracking.told[name] = tracker, told
    tracking.watch("tracked", {"tracker": name, "where": tracker.where})


def tags(recipe: Recipe) -> list[str]:
    """Return the recipe's name, the kinds of its stages, its seed and flyweight's version."""
    kinds = dict.fromkeys(stage.stage for stage in recipe.stages.values())
    return [recipe.name, *kinds, f"seed {recipe.seed}", f"flyweight {libraries()['flyweight']}"]


def _stdout_kept() -> redirect_stdout[TextIO]:
    """Let a library print on standard error: standard output is for a verb's answer."""
    return redirect_stdout(sys.stderr)


def _why(error: Exception) -> str:
    """Return an error's first line, or its kind."""
    return next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__
