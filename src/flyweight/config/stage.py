"""What a stage of a recipe tells of itself: everybody asks the stage, and no list names stages.

A stage has two parts. Its config is read without torch and answers whatever recipes, plans, cards
and reports ask. Its work is a `flyweight.store.stage.Stage`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flyweight.config.base import Strict

TextUse = Literal["none", "optional", "required"]
"""Whether a stage that names no text of its own takes the one that its input was trained on."""

EVERY_QUANTITY = ("tokens", "flops", "seconds", "total_flops", "total_seconds")
INHERITED = ("total_flops", "total_seconds")
"""What a stage spends that trains nothing itself: what its inputs had cost."""


@dataclass(frozen=True)
class Origin:
    """What is known of a finished artifact: the identity's config and parents, and its facts.

    `quote` writes a name as code, in the format of whoever asks.
    """

    config: Mapping[str, Any]
    parents: Mapping[str, str]
    facts: Mapping[str, Any]
    quote: Callable[[Any], str]

    def parent(self, field: str) -> str:
        """Return the quoted id of the artifact that a field refers to."""
        return self.quote(self.parents.get(field))


def sources_of_tokens(fields: Iterable[str]) -> list[str]:
    """Return which fields name a model whose tokenizer a stage can take, the input's first."""
    roles = ("input", "teacher")
    known = [field for field in fields if field.split(".")[0] in roles]
    return sorted(known, key=lambda field: roles.index(field.split(".")[0]))


class StageConfig(Strict):
    """Base of every stage's config.

    A subclass sets `stage` to a `Literal` with its name. Its class attributes are the stage's
    traits:

    - `makes_model`: the artifact has a `model` folder, which can be compared, sampled and exported.
    - `measures`: the field that names what a measurement is about; None for other stages.
    - `of_machine`: the result belongs to this machine, whose name becomes part of the id.
    - `references`: fields that name another stage or a MODEL, or several of them.
    - `defaults`: top-level sections of a recipe that are laid into the stage.
    - `spends`: quantities that `same_as` can take from the stage.
    - `validated`: the facts have `best_nll`, by which `select` can choose.
    - `compresses`: the model is that of `input` in fewer bytes, and reports compare the two.
    - `several`: fields of which a recipe may list several values: a stage for each combination.
    - `seconds`: what it takes on two idle cores, whatever the text and the model.
    """

    stage: Any

    makes_model: ClassVar[bool] = False
    measures: ClassVar[str | None] = None
    of_machine: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ("input",)
    defaults: ClassVar[tuple[str, ...]] = ()
    spends: ClassVar[tuple[str, ...]] = ()
    validated: ClassVar[bool] = False
    compresses: ClassVar[bool] = False
    several: ClassVar[tuple[str, ...]] = ()
    seconds: ClassVar[float] = 0.2
    noun: ClassVar[str] = ""
    """What a plan calls several of them; the stage's name unless it is set."""

    @classmethod
    def stage_name(cls) -> str:
        """Return the name that recipes call the stage by."""
        names = typing.get_args(cls.model_fields["stage"].annotation)
        return names[0] if names else ""

    @property
    def text_of_input(self) -> TextUse:
        """Whether the stage takes its input's text where `data` names none."""
        return "none"

    def own_texts(self) -> tuple[str, ...]:
        """Return which references read the stage's text in tokens of their own tokenizers."""
        return ()

    def identity_fields(self) -> dict[str, object]:
        """Return what the result depends on beside the config itself; empty where nothing is."""
        return {}

    def faults(self) -> list[str]:
        """Return what contradicts itself in this config alone, in words."""
        return []

    def no_validation(self) -> str:
        """Return why `select` cannot choose this stage by validation; empty where it can."""
        return "" if self.validated else f"is a stage of kind {self.stage}"

    def untrainable(self) -> str:
        """Return why its model cannot be trained further, as a clause; empty where it can."""
        return ""

    def role(self) -> str:
        """Return what its model is in a recipe, in a few words; empty where nothing is special."""
        return ""

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it after "A language model, "."""
        source = origin.parents.get("input")
        what = origin.quote(source) if source else f"{len(origin.parents)} others"
        return f"made by {origin.quote(cls.stage_name())} from {what}"

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return what tells measurements of one model apart; of equal ones the newest counts."""
        config = sorted((key, repr(value)) for key, value in identity["config"].items())
        return (tuple(config), tuple(sorted(identity["parents"].items())))

    def dependencies(self) -> dict[str, str]:
        """Return what the stage refers to: field -> stage name or MODEL, in a fixed order."""
        names: dict[str, str] = {}
        for field in self.references:
            value = getattr(self, field, None)
            if isinstance(value, str):
                names[field] = value
            elif isinstance(value, tuple):
                names |= {f"{field}.{place}": name for place, name in enumerate(value)}
        return names
