"""The stages that make a finished model smaller or simpler, and the text that guides them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer

from flyweight.config.base import Rate, Strict, added
from flyweight.config.data import Data, ModelTokenizer
from flyweight.config.linear_kinds import Int8, LinearKind, kind_faults
from flyweight.config.stage import INHERITED, Origin, StageConfig, TextUse
from flyweight.config.units import Tokens


class Calibration(Strict):
    """Text from which the layers' inputs are gathered, so that changes of weights can be weighed.

    `tokens` of the training split are read, in windows that the run's seed draws. Validation and
    test are never read. `data: null` takes the corpus the model was trained on, in windows of the
    model's context; another text is read in windows of its `context`. `damping`, a share of the
    inputs' mean square, is added to each input's: it keeps rare inputs from deciding.
    """

    tokens: Tokens = 65_536
    split: Literal["train"] = "train"
    data: Data | None = None
    damping: Rate = 0.01

    @field_validator("data", mode="after")
    @classmethod
    def _own_tokenizer(cls, data: Data | None) -> Data | None:
        """Read the text with the model's own tokenizer where no other is named."""
        if data is None or data.tokenizer is not None:
            return data
        return data.model_copy(update={"tokenizer": ModelTokenizer()})


class Calibrated(StageConfig):
    """Base of stages that may need a calibration text: `calibrates` says whether one does.

    A stage that needs none neither writes nor reads `calibration`, so that its id stays.
    """

    calibration: Calibration = Calibration()

    spends: ClassVar[tuple[str, ...]] = INHERITED

    @property
    def calibrates(self) -> bool:
        """Whether the stage reads the calibration text."""
        raise NotImplementedError(f"{type(self).__name__} has no `calibrates`")

    @property
    def data(self) -> Data | None:
        """The text to pack for the stage; None for the one its input was trained on."""
        return self.calibration.data if self.calibrates else None

    @property
    def text_of_input(self) -> TextUse:
        """A calibration needs a text."""
        return "required" if self.calibrates else "none"

    def faults(self) -> list[str]:
        """Refuse a calibration text that nothing would read."""
        if "calibration" in self.model_fields_set and not self.calibrates:
            return [f"calibration: {self.without_calibration()}, or leave calibration out"]
        return []

    def without_calibration(self) -> str:
        """Return why no calibration text is read and what would read it, as a clause."""
        raise NotImplementedError(f"{type(self).__name__} has no `without_calibration`")

    @model_serializer(mode="wrap")
    def _without_unread_text(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the calibration out where it is not read: ids hash what is written."""
        fields: dict[str, Any] = plain(self)
        if not self.calibrates:
            fields.pop("calibration", None)
        return fields


class Quantize(Calibrated):
    """Store a model's matrices in fewer bits.

    Embedding and head have their own kind, by default int8.

    The one matrix of a linear model is its head, which therefore is of `kind`. `rounding: gptq`
    rounds so that the layers' outputs on the calibration text change least (Frantar et al. 2022).
    `layers` gives some matrices a kind of their own, by patterns such as `blocks.0.*`; the first
    that matches decides. `clip` cuts off values beyond so many standard deviations of their row
    first.
    """

    stage: Literal["quantize"]
    input: str
    kind: LinearKind
    embedding: LinearKind = Int8()
    layers: dict[str, LinearKind] = added({})
    rounding: Literal["nearest", "gptq"] = added("nearest")
    clip: Rate | None = added(None)

    makes_model: ClassVar[bool] = True
    compresses: ClassVar[bool] = True

    @property
    def calibrates(self) -> bool:
        """GPTQ reads the calibration text."""
        return self.rounding == "gptq"

    def faults(self) -> list[str]:
        """Refuse what a calibration text contradicts, and kinds that contradict themselves."""
        faults = [
            fault
            for pattern, kind in self.layers.items()
            for fault in kind_faults(f"layers.{pattern}", kind)
        ]
        return [*super().faults(), *faults]

    def without_calibration(self) -> str:
        """Return that nearest rounding reads no text."""
        return "rounding nearest reads no text; set rounding: gptq"

    def untrainable(self) -> str:
        """Return why its model cannot be trained further; empty where each kind trains."""
        if all(kind.trains for kind in (self.kind, self.embedding, *self.layers.values())):
            return ""
        return (
            f"stores its matrices in fewer bits, and these cannot be trained; start from "
            f"{self.input} and quantize the result"
        )

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        kind = origin.config["kind"]
        name = kind["kind"] if isinstance(kind, dict) else kind
        made = f"{origin.parent('input')} with its matrices in {origin.quote(name)}"
        if others := sorted({each["kind"] for each in origin.config.get("layers", {}).values()}):
            made += f", and some in {' or '.join(map(origin.quote, others))}"
        rounding = origin.facts.get("rounding")
        if rounding is None:
            return made
        text = origin.quote(rounding["text"])
        return f"{made}, rounded by GPTQ on {rounding['tokens']:,} tokens of {text}"


class Merge(StageConfig):
    """Make a model's adapters part of its matrices, so that nothing is computed for them alone.

    Matrices in fewer bits are not rounded again: `unpack` makes every matrix of the model dense.
    """

    stage: Literal["merge"]
    input: str
    unpack: bool = False

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = INHERITED

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        merged = f"{origin.parent('input')} with its adapters merged into its matrices"
        share = origin.facts.get("sparsity")
        if share is None:
            return merged
        return f"{merged}; of those that were pruned, or had pruned adapters, {share:.1%} is zero"
