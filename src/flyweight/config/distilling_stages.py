"""The stages in which a teacher tells a student: distill, and teach, which writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from flyweight.config.base import PositiveInt, Rate, added
from flyweight.config.data import Data, ModelTokenizer
from flyweight.config.stage import EVERY_QUANTITY, Origin, StageConfig
from flyweight.config.training import Distillation, FromTeacher
from flyweight.config.training_stages import NewOrExisting

OWN_TOKENIZER = (
    "data.tokenizer: model is the teacher's own tokenizer here; name the student's, or leave "
    "across out"
)


NO_ALIGNMENT = (
    "other tokens are aligned in a packed text, and a stream is read on the way; name a corpus"
)

NO_RECORD = (
    "a record is of the windows of a packed text, and a stream is read on the way; let the teacher "
    "run beside the student (leave told out), or name a corpus"
)


Across = Literal["tokenizers"]
"""What a teacher and its student need not share: see docs/distillation.md."""


def _named_teachers(value: object, checked: ValidatorFunctionWrapHandler) -> object:
    """Check the name of a teacher or a list of names; a list of one is that one.

    Raises ValueError for anything else, and for one that is named twice.
    """
    names = list(value) if isinstance(value, list | tuple) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected the name of a teacher, or a list of several; found {value!r}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is named twice")
    return checked(names[0] if len(names) == 1 else names)


Teachers = Annotated[
    str | Annotated[tuple[str, ...], Field(min_length=2)], WrapValidator(_named_teachers)
]
"""A teacher, or several."""


def teachers_in_words(teacher: Teachers) -> str:
    """Return the name of a teacher, or the names of several."""
    return teacher if isinstance(teacher, str) else " and ".join(teacher)


def _begins(value: object) -> object:
    """Refuse a start that is neither random nor a mapping, in one sentence."""
    if value == "random" or isinstance(value, Mapping | FromTeacher):
        return value
    raise ValueError(f"expected random, or {{from: teacher}}; found {value!r}")


def _kind_of_start(value: object) -> str:
    return "random" if value == "random" else FromTeacher.union_tag


Start = Annotated[
    Annotated[FromTeacher, Tag(FromTeacher.union_tag)]
    | Annotated[Literal["random"], Tag("random")],
    Discriminator(_kind_of_start),
    BeforeValidator(_begins),
]
"""What a student's first weights are."""


class Distill(NewOrExisting):
    """Train a model to match a teacher's next-token distribution.

    `input` starts from another stage's weights, such as those of the teacher without some parts. A
    new `model` starts at random, or from the layers and widths of the teacher that `start` names.
    `told` is a stage `teach`, whose record stands in for running the teacher. Several teachers tell
    the mean of their probabilities. `across: tokenizers` is for teachers with other tokenizers.
    """

    stage: Literal["distill"]
    teacher: Teachers
    across: Across | None = added(None)
    told: str | None = added(None)
    start: Start = added("random")
    objective: Distillation = Distillation()

    references: ClassVar[tuple[str, ...]] = ("input", "told", "teacher")

    def faults(self) -> list[str]:
        """Refuse to begin with parts of the teacher where there are weights already.

        A record has neither hidden states nor the order of all tokens.
        """
        faults = super().faults()
        if self.input is not None and self.start != "random":
            faults.append("start: input has weights to start from; leave start out")
        if not isinstance(self.teacher, str) and self.told is None:
            faults.append(
                "teacher: several teachers tell before a student learns; add told: {k: 64}, or "
                "name one"
            )
        if not isinstance(self.teacher, str) and self.start != "random":
            faults.append("start: there are several teachers; use start: random, or name one")
        faults += self._across_faults()
        if self.told is not None and self.data.stream is not None:
            asked = f"told: {NO_RECORD}" if self.across is None else f"across: {NO_ALIGNMENT}"
            faults.append(asked)
        if self.told is not None and self.objective.hidden is not None and self.across is None:
            faults.append("objective.hidden: a record has no hidden states; leave told out")
        if self.told is not None and not self.train.counts_steps and self.train.same_as is None:
            faults.append(
                "told: how many rows are read has to be known; give train.steps, tokens, epochs or "
                "flops"
            )
        if self.told is not None and self.seed is not None:
            faults.append("seed: a record is of the recipe's seed; leave told or seed out")
        if self.told is None and self.objective.rest != "bucket":
            faults.append("objective.rest: is about a record; name one with told, or leave it out")
        return faults

    def _across_faults(self) -> list[str]:
        """Return what cannot be compared across tokenizers."""
        if self.across is None:
            return []
        faults: list[str] = []
        if self.told is None:
            faults.append("across: such a teacher tells before a student learns; add told: {k: 64}")
        if self.objective.hidden is not None:
            faults.append(
                "objective.hidden: hidden states of other tokens do not compare; leave hidden out"
            )
        if self.start != "random":
            faults.append(
                "start: the teacher's rows belong to other tokens; use start: random, or input"
            )
        if self.input is None and isinstance(self.data.tokenizer, ModelTokenizer):
            faults.append(OWN_TOKENIZER)
        return faults

    def role(self) -> str:
        """Return whom it learned from, and what it was before."""
        start = "" if self.input is None else f"{self.input}, "
        how = "" if self.across is None else ", across tokenizers"
        how += ", shuffled" if self.objective.shuffled else ""
        return f"{start}distilled from {teachers_in_words(self.teacher)}{how}"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        teachers = [name for name in origin.parents if name.split(".")[0] == "teacher"]
        made = f"distilled from {' and '.join(map(origin.parent, teachers))}"
        if origin.config["objective"].get("shuffled"):
            made += " with its probabilities shuffled, as a control"
        if "told" in origin.parents:
            made += f" by its record {origin.parent('told')}"
        if origin.config.get("across") is not None:
            made += _aligned(origin)
        if "input" in origin.parents:
            return f"{made}, starting from {origin.parent('input')}"
        if origin.config.get("start", "random") != "random":
            return f"{made}, starting with parts of its weights"
        return made


def _aligned(origin: Origin) -> str:
    """Return how much of a text could be compared across tokenizers, as a card says it."""
    share = origin.facts.get("aligned")
    where = " where tokens of both end at the same byte"
    return f", across tokenizers{where}" + (f" ({share:.0%} of its positions)" if share else "")


class Teach(StageConfig):
    """Write down a teacher's `k` likeliest next tokens for the first `rows` windows of a text.

    They are all tokens where there are no more than `k`.

    A distillation from the record (`told`) does not run the teacher. The windows are those that a
    training with the same text, context and seed reads. `temperature` is that of the objective, and
    `store` the format of a logarithm. Of several teachers it is the mean of their probabilities.

    With `across: tokenizers` teachers read the same text in their own tokens. They tell of groups
    of tokens that begin with the same shared token, where tokens of all end at the same byte.
    """

    stage: Literal["teach"]
    teacher: Teachers
    across: Across | None = added(None)
    data: Data
    rows: Annotated[int, Field(gt=0, lt=2**31)]
    k: PositiveInt = 64
    temperature: Rate = 1.0
    store: Literal["fp16", "fp32"] = "fp16"

    references: ClassVar[tuple[str, ...]] = ("teacher",)
    defaults: ClassVar[tuple[str, ...]] = ("data",)
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY

    def faults(self) -> list[str]:
        """Refuse to take the text's tokenizer from a teacher that has another one."""
        own = isinstance(self.data.tokenizer, ModelTokenizer)
        faults = [OWN_TOKENIZER] if own and self.across is not None else []
        return faults if self.data.stream is None else [*faults, f"data.stream: {NO_RECORD}"]

    def own_texts(self) -> tuple[str, ...]:
        """Teachers with other tokenizers read the text in their own tokens."""
        return tuple(self.dependencies()) if self.across is not None else ()
