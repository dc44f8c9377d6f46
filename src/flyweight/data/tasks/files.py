"""Where a task's rows are: in a local folder, in a file of the user's, or on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flyweight.core.files import reason, user_path
from flyweight.data.document import SPLITS, HeldOut, SplitName
from flyweight.data.sources.hub import HubRows
from flyweight.data.sources.local import VARIABLE
from flyweight.data.splitting import split_of
from flyweight.data.tasks.example import Example, TaskKind
from flyweight.data.tasks.rows import PlacedRow, placed_rows
from flyweight.data.tasks.templates import TASKS, TEMPLATES
from flyweight.errors import RequestError

HELD_OUT = HeldOut(0.1, 0.1)
"""What is held out of rows that come without splits."""

_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_ENDINGS = r"\.(jsonl|ndjson|json|parquet)(\.gz)?"
_FOLDERS: dict[TaskKind, tuple[str, ...]] = {
    "squad": ("squad",),
    "dialogue": ("daily-dialog", "daily_dialog", "dailydialog", "dialogue"),
    "summarize": ("cnn-dailymail", "cnn_dailymail", "summarize"),
}
HUB: dict[TaskKind, HubRows] = {
    "squad": HubRows(
        "rajpurkar/squad", "main", "plain_text/{split}-*.parquet", ("train", "validation")
    ),
    "dialogue": HubRows(
        # The repository's main branch is a script, which datasets no longer runs.
        "li2017dailydialog/daily_dialog",
        "refs/convert/parquet",
        "default/{split}/*.parquet",
        SPLITS,
    ),
    "summarize": HubRows("abisee/cnn_dailymail", "main", "3.0.0/{split}-*.parquet", SPLITS),
}
"""The datasets that stand in for local files."""


class TaskRows(Protocol):
    """The rows of a task by split; `divide` tells splits of rows that come without them."""

    @property
    def origin(self) -> str:
        """The files or the dataset, as a message names them."""
        ...

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits that can be read."""
        ...

    def rows(self, split: SplitName) -> Iterator[PlacedRow]:
        """Yield the rows that hold a split, and those of others where they are not apart."""
        ...

    def choose(self, split: SplitName, examples: list[Example]) -> tuple[list[Example], str]:
        """Return the split's examples among those of its rows, and how they were chosen."""
        ...


@dataclass(frozen=True)
class SplitFiles:
    """Files for each split. Where there is but one split, all are taken from its rows, in order."""

    task: str
    folder: Path
    files: dict[SplitName, tuple[Path, ...]]

    @property
    def origin(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Those with files; all of them where there is but one to take them from."""
        return tuple(self.files) if self._alone is None else SPLITS

    @property
    def _alone(self) -> SplitName | None:
        return next(iter(self.files)) if len(self.files) == 1 else None

    def rows(self, split: SplitName) -> Iterator[PlacedRow]:
        """Yield the rows of the split's files; raise RequestError where it has none."""
        paths = self.files.get(self._alone or split)
        if not paths:
            there = ", ".join(self.files)
            raise RequestError(
                f"{self.task}: {self.folder} has no {split} split, only {there}; put "
                f"{split}.jsonl there, or use another split"
            )
        for path in paths:
            yield from placed_rows(path)

    def choose(self, split: SplitName, examples: list[Example]) -> tuple[list[Example], str]:
        """Return all examples, or a part of them where there is but one split."""
        if self._alone is None:
            return examples, ""
        (path, *more) = self.files[self._alone]
        name = path.name if not more else f"the {self._alone} files"
        return _by_order(split, examples), (
            f"{self.folder} has only {name}: of its rows, the first 80 % are train, the next 10 % "
            f"validation, the last 10 % test"
        )


@dataclass(frozen=True)
class OneFile:
    """A file without splits: each row is in one, by a hash of what its prompt begins with."""

    path: Path

    @property
    def origin(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """All of them."""
        return SPLITS

    def rows(self, split: SplitName) -> Iterator[PlacedRow]:
        """Yield all rows."""
        yield from placed_rows(self.path)

    def choose(self, split: SplitName, examples: list[Example]) -> tuple[list[Example], str]:
        """Return the split's examples; few rows are divided by their order instead."""
        chosen: dict[SplitName, list[Example]] = {name: [] for name in SPLITS}
        for example in examples:
            chosen[split_of(example.prompt_head, HELD_OUT)].append(example)
        enough = len(examples) * HELD_OUT.validation / 2
        if min(len(chosen["validation"]), len(chosen["test"])) < enough or not chosen["train"]:
            return _by_order(split, examples), (
                f"{self.path.name} has no splits and few different prompts: the first 80 % of its "
                f"rows are train, the next 10 % validation, the last 10 % test"
            )
        return chosen[split], (
            f"{self.path.name} has no splits: 10 % of its prompts are validation and 10 % test, "
            f"by a hash of the prompt"
        )


@dataclass(frozen=True)
class HubTask:
    """A published dataset with its own splits."""

    task: TaskKind
    dataset: HubRows

    @property
    def origin(self) -> str:
        """The dataset."""
        return self.dataset.address

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Those that were published."""
        return self.dataset.splits

    def rows(self, split: SplitName) -> Iterator[PlacedRow]:
        """Yield the split's rows; raise RequestError with the files to put where instead."""
        if split not in self.dataset.splits:
            raise RequestError(
                f"{self.task} has no {split} split, only {', '.join(self.dataset.splits)}"
            )
        try:
            for number, row in enumerate(self.dataset.rows(self.task, split), 1):
                yield PlacedRow(f"{self.dataset.address}, {split} row {number}", row)
        except RequestError as error:
            template = TEMPLATES[self.task]
            raise RequestError(
                f"{self.task}: its files are not here. Put {template.files} into "
                f"DIR/{template.folder} and name DIR with --data-dir or {VARIABLE}; each row has "
                f"{template.fields}. From the hub: {error}"
            ) from error

    def choose(self, split: SplitName, examples: list[Example]) -> tuple[list[Example], str]:
        """Return all examples."""
        return examples, ""


def task_rows(task: str, data_dir: Path | None = None) -> tuple[TaskRows, TaskKind | None]:
    """Return where a task's rows are, and their kind where the task's name says it.

    `task` is a name of TASKS, a file of rows, or a folder with a file for each split. A task's name
    wins over a file of that name. Raises RequestError with what to put where.
    """
    for kind in TASKS:
        if task == kind:
            return _named_task(kind, data_dir), kind
    path = user_path(task)
    try:
        folder, there = path.is_dir(), bool(task) and path.exists()
    except (OSError, ValueError) as error:
        raise RequestError(f"task: {task!r} cannot be read: {reason(error)}") from error
    if not there:
        raise RequestError(
            f"task: {task!r} does not exist (looked from {Path.cwd()}) and is not the name of a "
            f"task; give a .jsonl, .json or .parquet file of examples, a folder with "
            f"train.jsonl and validation.jsonl, or one of {', '.join(TASKS)}"
        )
    if not folder:
        return OneFile(path), None
    files = split_files(path)
    if not files:
        raise RequestError(
            f"task: {path} has no files of examples; put train.jsonl and validation.jsonl there, "
            f"or name one file"
        )
    return SplitFiles(task, path, files), None


def reported_split(task: str, data_dir: Path | None = None) -> SplitName:
    """Return the split whose rows choose nothing: test, or validation where there is no test.

    A training then takes its development rows from the train split. Raises RequestError for a task
    that is not there.
    """
    where, _ = task_rows(task, data_dir)
    return "test" if "test" in where.splits else "validation"


def _named_task(kind: TaskKind, data_dir: Path | None) -> TaskRows:
    for name in _FOLDERS[kind]:
        if data_dir is None or not (folder := data_dir / name).is_dir():
            continue
        endings = rf"({_ENDINGS}|\.txt)" if kind == "dialogue" else _ENDINGS
        files = split_files(folder, endings)
        if not files:
            template = TEMPLATES[kind]
            raise RequestError(
                f"{kind}: {folder} has none of its files; put {template.files} there, each row "
                f"with {template.fields}"
            )
        return SplitFiles(kind, folder, files)
    return HubTask(kind, HUB[kind])


def split_files(folder: Path, endings: str = _ENDINGS) -> dict[SplitName, tuple[Path, ...]]:
    """Return each split's files: `train.jsonl`, `dev-v1.1.json`, `train-00000-of-00002.parquet`.

    Raises RequestError where a split has files of several kinds: which are meant would be a guess.
    """
    found: dict[SplitName, tuple[Path, ...]] = {}
    for split in SPLITS:
        names = "|".join(_NAMES[split])
        paths = [
            path
            for path in sorted(folder.iterdir())
            if re.fullmatch(rf"({names})([-_.][-\w.]+?)?{endings}", path.name, re.IGNORECASE)
        ]
        if len(paths) > 1 and not all(re.search(r"-of-\d+", path.name) for path in paths):
            listed = ", ".join(path.name for path in paths)
            raise RequestError(
                f"{folder} has several files for its {split} split ({listed}); leave one there"
            )
        if paths:
            found[split] = tuple(paths)
    return found


def _by_order(split: SplitName, examples: list[Example]) -> list[Example]:
    """Return the first 80 %, the next 10 % or the last 10 % of the examples."""
    total = len(examples)
    test = max(1, round(total * HELD_OUT.test)) if total >= len(SPLITS) else 0
    validation = max(1, round(total * HELD_OUT.validation)) if total > 1 else 0
    first, second = total - test - validation, total - test
    parts: dict[SplitName, list[Example]] = {
        "train": examples[:first],
        "validation": examples[first:second],
        "test": examples[second:],
    }
    return parts[split]
