"""The stages that make a model without training it by a loss: init, select and mix."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from flyweight.config.base import added
from flyweight.config.baselines import Architecture
from flyweight.config.data import Data
from flyweight.config.messages import nearest
from flyweight.config.metrics import METRICS, TASK_METRICS
from flyweight.config.mixture import Counts, Pointer
from flyweight.config.model_rules import packed_kinds
from flyweight.config.scoring import Score, ScoredTask
from flyweight.config.stage import EVERY_QUANTITY, Origin, StageConfig, TextUse
from flyweight.config.units import Tokens


def _known(name: str) -> str:
    names = {**METRICS, **TASK_METRICS}
    if name not in names:
        raise ValueError(f"unknown metric {name!r}{nearest(name, names)}")
    return name


class Initialise(StageConfig):
    """A model with random weights."""

    stage: Literal["init"]
    model: Architecture

    makes_model: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ()

    def untrainable(self) -> str:
        """Return why its model cannot be trained further: its matrices are packed."""
        kinds = packed_kinds(self.model)
        if not kinds:
            return ""
        return f"has matrices stored as {' and '.join(kinds)}, which cannot be trained"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        return "with random weights, not trained"


class Select(StageConfig):
    """The best of several trained models: validation text chooses, so that test text can report.

    `by: nll` takes the best validation of each training; any other metric is measured on the whole
    validation split. A metric of answers, such as f1, is measured on a `task`: its name, its file,
    or the fields of a stage `score`.
    """

    stage: Literal["select"]
    among: Annotated[tuple[str, ...], Field(min_length=2)]
    by: Annotated[str, AfterValidator(_known)] = added("nll")
    task: str | ScoredTask | None = added(None)

    makes_model: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ("among",)
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True

    @property
    def text_of_input(self) -> TextUse:
        """Another metric than NLL is measured on the candidates' text."""
        return "none" if self.by == "nll" or self.task is not None else "required"

    @property
    def score(self) -> Score | None:
        """The stage that scores a candidate on the task; None where a text decides."""
        if self.task is None:
            return None
        task = ScoredTask(task=self.task) if isinstance(self.task, str) else self.task
        return task.stage("").model_copy(update={"metrics": (self.by,)})

    def faults(self) -> list[str]:
        """Refuse a metric of answers without a task, and a task for any other metric."""
        answers = self.by in TASK_METRICS
        if answers and self.task is None:
            return [f"by: {self.by} is measured on a task; name one, such as task: squad"]
        if self.task is not None and not answers:
            return [f"task: {self.by} is of a text; name a metric of answers, such as by: f1"]
        return []

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        by = origin.config.get("by", "nll")
        quality = "likelihood" if by == "nll" else origin.quote(by)
        count = sum(field != "corpus" for field in origin.parents)
        chosen = origin.quote(origin.facts["chosen"])
        return f"the one of {count} with the best validation {quality}: {chosen}"


class Mix(StageConfig):
    """Mix a trained network's predictions with n-gram counts and a pointer into the context.

    The counts are those of its training text.

    The gates are fitted on up to `validation_tokens` of the validation split, which neither network
    nor counts have read. `counts: null` or `pointer: null` leaves that one out. `data: null` takes
    the corpus the network was trained on.
    """

    stage: Literal["mix"]
    input: str
    data: Data | None = None
    counts: Counts | None = Counts()
    pointer: Pointer | None = Pointer()
    validation_tokens: Tokens = 65_536

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True

    @property
    def text_of_input(self) -> TextUse:
        """The counts need the text that the network was trained on."""
        return "required"

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if self.counts is None and self.pointer is None:
            raise ValueError(
                "counts and pointer are both null: nothing would be mixed; leave one of them in"
            )
        if self.counts is not None and self.counts.entries is not None:
            raise ValueError("counts.entries follows from the text; leave it out")
        return self

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        experts = []
        if origin.config["counts"] is not None:
            experts.append(f"n-gram counts of order {origin.config['counts']['order']}")
        if origin.config["pointer"] is not None:
            experts.append("a pointer into the context")
        return (
            f"{origin.parent('input')} mixed with {' and '.join(experts)}, "
            f"its gates fitted on validation text"
        )
