"""The stages that measure a model: evaluate, floors, sample, audit and memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from flyweight.config.base import PositiveInt, added
from flyweight.config.data import Data
from flyweight.config.messages import nearest
from flyweight.config.metrics import METRICS, metric_kind
from flyweight.config.stage import StageConfig, TextUse


def _scored(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics that an evaluation has to be asked for, each once; refuse other names."""
    always = [name for name, kind in METRICS.items() if kind.score is None]
    optional = [name for name in METRICS if name not in always]
    for name in names:
        if name in always:
            raise ValueError(f"{name} is always measured; leave it out")
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{nearest(name, optional)}")
    return tuple(sorted(set(names)))


Metrics = Annotated[tuple[str, ...], AfterValidator(_scored)]
"""Metrics to measure beside the likelihood's own, which always are."""


class Evaluate(StageConfig):
    """Likelihood on one split with a fixed window and stride.

    `data: null` takes the corpus the model was trained on.

    `validation+test` is both as one text, where they adjoin: the last tenth of Tiny Shakespeare,
    which nanoGPT scores. `metrics` are measured beside the likelihood, such as `accuracy`.
    """

    stage: Literal["evaluate"]
    input: str
    data: Data | None = None
    split: Literal["train", "validation", "test", "validation+test"] = "test"
    window: PositiveInt | None = None
    stride: PositiveInt | None = None
    batch: PositiveInt = 16
    metrics: Metrics = added(())

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    several: ClassVar[tuple[str, ...]] = ("input", "split")
    seconds: ClassVar[float] = 0.4
    noun: ClassVar[str] = "evaluation"

    @property
    def text_of_input(self) -> TextUse:
        """Likelihood needs a text."""
        return "required"

    def identity_fields(self) -> dict[str, object]:
        """Return the versions of the metrics, where one was raised."""
        versions = {name: metric_kind(name).version for name in self.metrics}
        raised = {name: version for name, version in versions.items() if version != 1}
        return {"metric_versions": raised} if raised else {}

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text and the split: of equal ones the newest counts."""
        return (identity["parents"].get("corpus"), identity["config"].get("split"))


class Floors(StageConfig):
    """What any model has to beat: n-gram models of the corpus' own training split."""

    stage: Literal["floors"]
    data: Data
    split: Literal["train", "validation", "test"] = "test"

    references: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[str | None] = "corpus"
    of_machine: ClassVar[bool] = True

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text and the split: of equal ones the newest counts."""
        return (identity["parents"].get("corpus"), identity["config"].get("split"))


class Sample(StageConfig):
    """Continuations of prompts, the same way for every model."""

    stage: Literal["sample"]
    input: str
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    new_tokens: PositiveInt = 64
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95

    measures: ClassVar[str | None] = "input"

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the prompts: of equal ones the newest counts."""
        return tuple(identity["config"].get("prompts", ()))


class Audit(StageConfig):
    """The checks without which a number is worth nothing: all of them, or those named."""

    stage: Literal["audit"]
    input: str
    data: Data | None = None
    checks: tuple[str, ...] = ()

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 0.5

    @property
    def text_of_input(self) -> TextUse:
        """Some checks read text; the others need none."""
        return "optional"

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text: of equal ones the newest counts."""
        return identity["parents"].get("corpus")


class TrainingMemory(StageConfig):
    """Peak memory and seconds of a training's first `steps`, made again in a fresh process.

    `input` is what a training made; its text and its inputs have to be in the runs root.
    """

    stage: Literal["memory"]
    input: str
    steps: PositiveInt = 4

    measures: ClassVar[str | None] = "input"
    noun: ClassVar[str] = "memory measurement"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 6.0

    @classmethod
    def same_measurement(cls, identity: Mapping[str, object]) -> Hashable:
        """Return the device: of equal ones the newest counts."""
        return identity["device"]
