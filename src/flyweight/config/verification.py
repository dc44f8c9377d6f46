"""Whether an export of a model is the model that was measured."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from flyweight.config.data import Data
from flyweight.config.stage import StageConfig, TextUse
from flyweight.config.units import Tokens


class Verify(StageConfig):
    """Compare a model with an export of it, on held-out text, in the program that will use it.

    `export` is a Hugging Face folder, a GGUF file, an adapter of peft's, or another model's folder.
    Without it, every format that can hold the model is written and verified, and a quantized or
    merged model is compared with the one before. `tokens` is how much of the validation split is
    read. `within` is the share of the NLL that may be lost, instead of the limit of each kind.
    """

    stage: Literal["verify"]
    input: str
    export: str | None = None
    data: Data | None = None
    tokens: Tokens = 16_384
    within: Annotated[float, Field(gt=0, lt=1)] | None = None

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 5.0
    noun: ClassVar[str] = "verification"

    @property
    def text_of_input(self) -> TextUse:
        """A text decides whether two models agree."""
        return "required"

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the export and the text: of equal ones the newest counts."""
        return (identity["config"].get("export"), identity["parents"].get("corpus"))
