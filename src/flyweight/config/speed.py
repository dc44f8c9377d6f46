"""Stages that measure speed: how fast a model is, and where its time goes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from flyweight.config.base import PositiveInt
from flyweight.config.stage import StageConfig

EngineName = Literal["auto", "eager", "compiled"]
"""What multiplies a few rows: torch, or code compiled on this machine; `auto` where it can be."""

PrecisionName = Literal["fp32", "bf16", "fp16"]
"""Autocast to it; fp32 leaves every product in the model's own float type."""

AttentionName = Literal["auto", "eager", "math", "flash", "efficient"]
"""The kernel of attention: written out, one of torch's, or what torch chooses."""


class SpeedStage(StageConfig):
    """What both kinds of stages ask for: the kernels, and the float type of products."""

    precision: PrecisionName = "fp32"
    attention: AttentionName = "auto"
    engine: EngineName = "auto"

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    several: ClassVar[tuple[str, ...]] = ("input", "precision", "attention", "engine", "batch")
    seconds: ClassVar[float] = 3.5

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave a later field out at its default: ids hash what is written."""
        fields: dict[str, Any] = plain(self)
        later = {"precision": "fp32", "attention": "auto", "engine": "auto", "generate_tokens": 5}
        return {name: value for name, value in fields.items() if later.get(name) != value}


class Bench(SpeedStage):
    """Speed and memory in a fresh process: warm-up, then `repeats` timed runs.

    A fixed number of new tokens.

    `prompt` and `new_tokens` are 64, or half the context where that is less. Without `repeats`
    there are at least five runs, and up to fifteen within two seconds: enough to leave slow
    outliers out of the interval. `generate_tokens` are those of one short answer, which is timed
    with the reading of its prompt.
    """

    stage: Literal["bench"]
    input: str
    batch: PositiveInt = 1
    prompt: PositiveInt | None = None
    new_tokens: PositiveInt | None = None
    repeats: PositiveInt | None = None
    generate_tokens: PositiveInt = 5

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the device, the lengths and the kernels: of equal ones the newest counts."""
        config = identity["config"]
        names = ("batch", "prompt", "new_tokens", "precision", "attention", "engine")
        return (identity["device"], *map(config.get, names))


class Profile(SpeedStage):
    """Which operators one generation calls, and what they take, in a fresh process.

    A `prompt` is read, 64 tokens or half the context where that is less, and `new_tokens` are
    generated greedily.
    """

    stage: Literal["profile"]
    input: str
    prompt: PositiveInt | None = None
    new_tokens: PositiveInt = 20
