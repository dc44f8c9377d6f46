"""What every config is made of: frozen models that refuse unknown keys, bounded numbers, and choices by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Strict(BaseModel):
    """Base of all configs: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def choice(default: str | None = None) -> BeforeValidator:
    """Let a bare name stand for `{kind: name}`, and options without a kind for those of the default kind."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and default and "kind" not in value:
            return {"kind": default, **value}
        return value

    return BeforeValidator(read)


# Bounds that no machine reaches, so that what is counted from them stays a number and is counted in time.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Depth = Annotated[int, Field(ge=0, le=10_000)]
Times = Annotated[int, Field(ge=2, le=1_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Between = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
