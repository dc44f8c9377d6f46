"""The summary of a finished study of fine-tuning, `study.json`: every run, condition and control.

All reports are drawn from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from flyweight.config.metrics import Better
from flyweight.core.files import read_bytes
from flyweight.records.difference import Difference
from flyweight.records.metric import Metric
from flyweight.records.run_summary import Environment
from flyweight.records.sealed import Record, SealedRecord
from flyweight.records.study_summary import FILE, Spread
from flyweight.records.training_cost import TrainingCost

ScoreStanding = Literal["above", "below", "undecided"]
"""Whether a score is better than its task's floor."""


class DevelopmentLoss(Record):
    """A validation during training: nats per completion token after some seconds of training."""

    step: int
    seconds: float
    nll: float


class TunedRun(Record):
    """One fine-tuning: its artifact, its cost, its losses and its scores.

    `id` is None where training diverged, and `why` says so. `train_nll` and `validation_nll` are
    nats per completion token, at the end and at the kept step. `retained_nll` is the loss on the
    base's own text afterwards.
    """

    seed: int
    id: str | None
    score: str | None = None
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    train_nll: float | None = None
    validation_nll: float | None = None
    retained_nll: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    standing: ScoreStanding = "undecided"
    curve: tuple[DevelopmentLoss, ...] = ()
    why: str = ""


class TunedCell(Record):
    """A method on a base for a task, with its runs.

    `trainable` counts the numbers that training moves, `added_bytes` what the tuned model stores
    beside its base: adapters, or all tensors that changed. `cost` is of the first seed's training,
    `planned_bytes` the memory that it was planned with.
    """

    base: str
    method: str
    task: str
    about: str
    trainable: int
    added_bytes: int
    cost: TrainingCost | None = None
    planned_bytes: int | None = None
    runs: tuple[TunedRun, ...]

    @property
    def name(self) -> str:
        """What tells it from all other cells."""
        return f"{self.method} on {self.base}, {self.task}"

    @property
    def finished(self) -> list[TunedRun]:
        """The runs that did not diverge."""
        return [run for run in self.runs if run.id is not None]

    @property
    def sound(self) -> bool:
        """Whether all runs are results: a mean over the others alone would flatter the cell."""
        return len(self.finished) == len(self.runs)

    def spread(self, metric: str) -> Spread | None:
        """Return a metric over the seeds; None where a run has none, or is not a result."""
        return self._spread([run.metrics.get(metric) for run in self.runs])

    def losses(self, name: Literal["train_nll", "validation_nll", "retained_nll"]) -> Spread | None:
        """Return a loss over the seeds; None where a run has none, or is not a result."""
        return self._spread([getattr(run, name) for run in self.runs])

    def _spread(self, values: Sequence[float | None]) -> Spread | None:
        present = [value for value in values if value is not None]
        if not self.sound or len(present) < len(values):
            return None
        return Spread.of(present)

    @property
    def seconds(self) -> float:
        """Mean training seconds of a finished run; 0 without one."""
        return math.fsum(run.seconds for run in self.finished) / max(1, len(self.finished))

    @property
    def flops(self) -> float:
        """Mean training FLOPs of a finished run; 0 without one."""
        return math.fsum(run.flops for run in self.finished) / max(1, len(self.finished))

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that training held, over the interpreter's own."""
        return self.cost.peak_bytes if self.cost else None


class BaseScores(Record):
    """A base on a task before any fine-tuning."""

    base: str
    task: str
    id: str
    metrics: dict[str, Metric]
    standing: ScoreStanding


class StudiedBase(Record):
    """A model that the study fine-tunes; `own_nll` is its loss on its own text."""

    name: str
    id: str
    config_line: str
    parameters: int
    stored_bytes: int
    total_flops: float
    own_text: str = ""
    own_nll: float | None = None


class StudiedTask(Record):
    """A task with its floor; `decides` is the metric by which models are compared.

    `rows` of the split were scored, on `contexts` different contexts.
    """

    name: str
    about: str
    decides: str
    better: Better
    shown: tuple[str, ...]
    rows: int
    contexts: int
    floor: str
    floor_about: str
    floor_metrics: dict[str, Metric]
    notes: tuple[str, ...] = ()


class MethodComparison(Record):
    """A method minus full fine-tuning by a task's metric, seed by seed on the same base."""

    base: str
    task: str
    method: str
    against: str
    difference: Difference | None
    p: float | None = None
    p_corrected: float | None = None
    n: int = 0


class TuningStudySummary(SealedRecord):
    """All results of a finished study of fine-tuning."""

    file: ClassVar[str] = FILE
    again: ClassVar[str] = "run the study again, which writes it anew"
    unfinished: ClassVar[str] = (
        f"is not a finished study: it has no {FILE}; run it with `flyweight study`"
    )

    format: Literal[1] = 1
    kind: Literal["finetuning"] = "finetuning"
    name: str
    about: str
    seeds: tuple[int, ...]
    limit_line: str
    created: AwareDatetime
    command: str
    request: str = ""
    seconds: float
    environment: Environment
    bases: Annotated[tuple[StudiedBase, ...], Field(min_length=1)]
    tasks: Annotated[tuple[StudiedTask, ...], Field(min_length=1)]
    untouched: tuple[BaseScores, ...]
    cells: tuple[TunedCell, ...]
    comparisons: tuple[MethodComparison, ...] = ()
    left_out: tuple[str, ...] = ()

    def base(self, name: str) -> StudiedBase:
        """Return the base of a name."""
        return next(base for base in self.bases if base.name == name)

    def task(self, name: str) -> StudiedTask:
        """Return the task of a name."""
        return next(task for task in self.tasks if task.name == name)


def is_of_tuning(folder: Path) -> bool:
    """Return whether the study in a folder is one of fine-tuning; False for a damaged file."""
    try:
        content = json.loads(read_bytes(folder / FILE))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == "finetuning"
