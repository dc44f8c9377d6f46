"""How a model's answers to a task are scored."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, StringConstraints

from flyweight.config.base import Strict, added
from flyweight.config.messages import nearest
from flyweight.config.metrics import TASK_METRICS, metric_kind
from flyweight.config.stage import StageConfig


def _of_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a task's metrics, each once and in the order of tables; refuse other names."""
    for name in names:
        if name not in TASK_METRICS:
            raise ValueError(f"no metric of a task is called {name!r}{nearest(name, TASK_METRICS)}")
    return tuple(name for name in TASK_METRICS if name in names)


class ScoredTask(Strict):
    """A task that a report scores every compared model on: the fields of a stage `score`."""

    task: str
    split: Literal["train", "validation", "test"] = "validation"
    limit: PositiveInt | None = None
    new_tokens: PositiveInt | None = None
    bad_rows: NonNegativeInt = 0

    def stage(self, model: str) -> Score:
        """Return the stage that scores a model on the task."""
        return Score(stage="score", input=model, **self.model_dump())


class Score(StageConfig):
    """Answers to a task's prompts, their scores, and those of the task's floor.

    `task` is squad, dialogue, summarize, or a file of prompts and completions. Answers are greedy,
    of `new_tokens` at most (by default as the task needs). `limit` takes that many rows, drawn by
    `sample_seed`; a larger limit holds the rows of a smaller one. Prompts are cut from the left to
    `window` tokens (by default the model's context). Without `metrics`, all are measured.
    """

    stage: Literal["score"]
    input: str
    task: str
    split: Literal["train", "validation", "test"] = "validation"
    limit: PositiveInt | None = None
    sample_seed: int = 0
    new_tokens: PositiveInt | None = None
    window: PositiveInt | None = None
    batch: PositiveInt = 16
    bad_rows: NonNegativeInt = 0
    metrics: Annotated[tuple[str, ...], AfterValidator(_of_tasks)] = added(())

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    several: ClassVar[tuple[str, ...]] = ("input", "task")
    seconds: ClassVar[float] = 60.0

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics that are measured."""
        return self.metrics or tuple(TASK_METRICS)

    def identity_fields(self) -> dict[str, object]:
        """Return the versions of the metrics, where one was raised."""
        versions = {name: metric_kind(name).version for name in self.measured}
        raised = {name: version for name, version in versions.items() if version != 1}
        return {"metric_versions": raised} if raised else {}

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the task's rows and the split: of equal ones the newest counts."""
        return (identity["data"], identity["config"].get("split"))


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


TaskNames = Annotated[
    tuple[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)], ...],
    Field(min_length=1),
    AfterValidator(_once),
]
"""Names of lm-eval's tasks or groups of tasks, each once."""


class LmEvalTasks(Strict):
    """Tasks of lm-eval that a report measures every compared model on.

    The fields are those of a stage `lm_eval`.
    """

    tasks: TaskNames
    task_path: str | None = None
    few_shot: NonNegativeInt | None = None
    limit: PositiveInt | None = None
    batch: PositiveInt = 8

    def stage(self, model: str) -> LmEval:
        """Return the stage that measures a model on the tasks."""
        return LmEval(stage="lm_eval", input=model, **self.model_dump())


class LmEval(StageConfig):
    """Metrics of tasks of lm-eval, the Language Model Evaluation Harness, and of each question.

    `tasks` are its names of tasks or groups, or names in `task_path`, a folder of one's own task
    files. `few_shot` examples stand before each question, by default as many as the task says.
    `limit` takes the first questions of each task. `batch` questions are read at once.
    """

    stage: Literal["lm_eval"]
    input: str
    tasks: TaskNames
    task_path: str | None = None
    few_shot: NonNegativeInt | None = None
    limit: PositiveInt | None = None
    batch: PositiveInt = 8

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 60.0
    noun: ClassVar[str] = "lm-eval measurement"

    def identity_fields(self) -> dict[str, object]:
        """Return no path: a checksum of the task files stands in the identity instead."""
        return {"task_path": None}

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the tasks, their files and the examples: of equal ones the newest counts."""
        config = identity["config"]
        return (identity["data"], tuple(config.get("tasks", ())), config.get("few_shot"))
