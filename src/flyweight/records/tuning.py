"""A fine-tuning before and after: what the base and the tuned model reach on the same rows."""

from __future__ import annotations

from typing import Literal

from flyweight.records.difference import Difference
from flyweight.records.metric import Metric
from flyweight.records.sealed import Record


class Change(Record):
    """One metric before and after; `difference` is after minus before, paired.

    `about` says whether it was to be learned, or is of the base's own text, which may be forgotten.
    `on` names the text or the task and its split.
    """

    about: Literal["learned", "forgotten"]
    on: str
    metric: str
    before: Metric
    after: Metric
    difference: Difference | None = None


class AnswerPair(Record):
    """What the base and the tuned model write after a prompt; `references` are right answers."""

    prompt: str
    before: str
    after: str
    references: tuple[str, ...] = ()


class Tuning(Record):
    """One fine-tuning of a run: stage `name`, of the artifact `base`.

    `trainable` of `parameters` numbers were trained. `adapter_bytes` are those of what was added,
    None where nothing was. `examples` are those read in all epochs of a task. `notes` say which
    rows were cut or left out and why, and what could not be measured.
    """

    name: str
    base: str
    method: str
    task: str | None = None
    trainable: int
    parameters: int
    adapter_bytes: int | None = None
    examples: int | None = None
    changes: tuple[Change, ...] = ()
    answers: tuple[AnswerPair, ...] = ()
    notes: tuple[str, ...] = ()
