"""The runs root and the machine: reports, lists, garbage, and what this machine can do.

Part of `flyweight.api`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flyweight.api import listing, model_references
from flyweight.api.results import Run, StudyRun, TuningStudyRun
from flyweight.api.session import DEFAULT, Session, in_use, shows_progress
from flyweight.core.files import is_path, refuse_link
from flyweight.errors import RequestError
from flyweight.records import run_summary, study_summary
from flyweight.records.tuning_study import is_of_tuning
from flyweight.reports.cards import card
from flyweight.reports.pages import run as page, study as study_page, tuning_study as tuning_page
from flyweight.store import gc as garbage
from flyweight.store.artifact import Store
from flyweight.studies import study_files

if TYPE_CHECKING:
    from flyweight.diagnosis.examine import Health


@in_use
def report(
    *runs: str | Path | Run | StudyRun | TuningStudyRun,
    out: str | Path | None = None,
    session: Session = DEFAULT,
) -> Path:
    """Write one page over several finished runs, or a single run's or study's own page anew.

    Return the path of the page. `runs` are names, folders, or what `run` and `study` returned.
    `out` is a folder for the page and its tables, or a page of its own where it ends in `.html`.
    Unless it is named, the folder is `report` for several runs. For one run it is the run's own,
    whose model cards are written anew as well. Raises RequestError where a run is not finished.
    """
    if not runs:
        raise RequestError("report needs at least one finished run")
    out = None if out is None else Path(out)
    store = session.store
    folders = [
        run.folder if isinstance(run, Run | StudyRun | TuningStudyRun) else _run_folder(run, store)
        for run in runs
    ]
    if len(folders) == 1 and out is None:
        # The page is written into this folder, which then has to be the run's own.
        alone = folders[0]
        if os.path.realpath(alone.parent) == os.path.realpath(store.root):
            refuse_link(alone)
    grids = [folder for folder in folders if (folder / study_summary.FILE).is_file()]
    if len(folders) > 1:
        return _report_on_several(folders, grids, out or Path("report"))
    if grids:
        writer = tuning_page if is_of_tuning(folders[0]) else study_page
        return writer.write(folders[0], out)
    if out is not None:
        return page.write_many(folders, out)
    if not _within(folders[0], store.root) or not (folders[0] / run_summary.FILE).is_file():
        return page.write(folders[0])
    with store.recipe_folder(os.path.basename(os.path.realpath(folders[0]))) as place:
        card.write_beside(place.path, place.folder.name, store)
        return place.named(page.write(place.path))


def _report_on_several(folders: Sequence[Path], grids: Sequence[Path], out: Path) -> Path:
    if grids:
        raise RequestError(
            f"{', '.join(map(str, grids))}: a study has a page of its own, which it cannot share "
            f"with recipes or other studies; report it alone"
        )
    return page.write_many(folders, out)


def _run_folder(run: str | Path, store: Store) -> Path:
    """Return the folder of a run.

    A name is looked up in the runs root before it is taken for a path; `./name` is always a path.
    """
    named, path = store.root / run, Path(run)
    results = (run_summary.FILE, study_summary.FILE)
    by_name = isinstance(run, str) and not is_path(run)
    if by_name and any((named / file).is_file() for file in results):
        return named
    return path if path.is_dir() else named


def _within(path: Path, folder: Path) -> bool:
    """Return whether a path lies right in a folder.

    `Path.resolve` would fail for a link that leads to itself.
    """
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)


def shipped_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    return study_files.shipped()


def shipped_models() -> list[str]:
    """Return the names of the models in the catalogue."""
    from flyweight.config import catalogue

    return list(catalogue.names())


def task_templates() -> list[dict[str, str]]:
    """Return the kinds of tasks: their fixed texts, a row's fields, and where files are looked for.

    `folder` and `files` are what `--data-dir` is to hold, `hub` is the dataset that is taken
    otherwise; they are empty for rows of one's own file.
    """
    from flyweight.data.tasks import TEMPLATES

    return [
        {
            "task": kind,
            "prompt": template.prompt,
            "completion": template.completion,
            "cut": template.head,
            "fields": template.fields,
            "folder": template.folder,
            "files": template.files,
            "hub": template.hub,
        }
        for kind, template in TEMPLATES.items()
    ]


def artifacts(session: Session = DEFAULT) -> model_references.RunsListing:
    """Return what is under the runs root: `items`, `recipes`, and the `bytes` of all.

    Items are artifacts, half-made and damaged ones included.
    """
    return model_references.listed(session.store)


def listed_models(session: Session = DEFAULT) -> list[listing.ListedModel]:
    """Return every finished model of the runs root, oldest first; see `flyweight.api.listing`."""
    return listing.listed_models(session.store)


@shows_progress
def gc(
    among: Collection[str] | None = None,
    older_than: float = 0.0,
    dry_run: bool = False,
    session: Session = DEFAULT,
) -> garbage.Garbage:
    """Remove unreferenced artifacts, half-made ones that no process makes, and free lock files.

    Artifacts of unfinished and earlier runs of a name are kept, and `kept` says how to have them
    removed. Return what was removed, or with `dry_run` what would be. `among` restricts it to these
    names. `older_than` restricts it to things made more than that many seconds ago. Raises
    FlyweightError where another process works in the runs root.
    """
    if not dry_run:
        return garbage.collect(session.store, among, older_than, session.watch)
    candidates = garbage.find(session.store, older_than)
    items = [item for item in candidates.items if among is None or item.path.name in among]
    return replace(candidates, items=tuple(items))


@shows_progress
def doctor(quick: bool = False, session: Session = DEFAULT) -> Health:
    """Return what this machine can do, each measurement with a verdict.

    It covers devices, dtypes, kernels, memory, folders and libraries. `quick` leaves out libraries
    that take seconds to import. `ok` is false where something that is needed is broken.
    """
    from flyweight.diagnosis import examine

    return examine.examine(
        session.runtime(), session.store.root, session.data_dir, quick, session.watch
    )
