"""The parts of every config: strict frozen models, bounded numbers, choices by name."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class Strict(BaseModel):
    """Base of all configs: frozen, unknown keys refused.

    All of its text can be written to a file.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="after")
    @classmethod
    def _text(cls, value: object) -> object:
        """Refuse text that UTF-8 cannot hold.

        It has bytes of a file's name that are not UTF-8, or half of a surrogate pair.
        """
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    raise ValueError(
                        f"{text!a} is not UTF-8 text; rename the file, or write its characters"
                    ) from error
        return value


def added(default: Any) -> Any:
    """Return a field with this default, which at its default is left out of a config's dump.

    So a field can be added to a config later: what was made before it keeps its id.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


def choice(default: str | None = None) -> BeforeValidator:
    """Read a bare name as `{kind: name}`, and options without a kind as those of `default`."""

    def read(value: object) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and default and "kind" not in value:
            return {"kind": default, **value}
        return value

    return BeforeValidator(read)


# Bounds that no machine reaches, so that what is counted from them stays a number and is counted in
# time.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Depth = Annotated[int, Field(ge=0, le=10_000)]
Times = Annotated[int, Field(ge=2, le=1_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Between = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
LearningRate = Annotated[float, Field(gt=0, le=1000)]
"""A rate of 1e38 would train, and leave a log that nobody can read."""
Probability = Annotated[float, Field(ge=0, lt=1)]


def _no_artifact(name: str) -> str:
    """Refuse a recipe's name that has the form of an artifact's, half-made ones included."""
    if re.fullmatch(r"[a-z_]+-[0-9a-f]{8}(\.partial)?", name):
        raise ValueError(
            f"{name!r} is what the folder of an artifact is called; choose another name for the run"
        )
    return name


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"), AfterValidator(_no_artifact)
]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Both become folders under the runs root.

A dot in a stage's name would end it in `stages.<name>.train.steps=400`.
"""
