"""What a family of checkpoints is: how it reads and writes a config, and where its tensors stand.

No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flyweight.checkpoints.attributes import Fields
from flyweight.checkpoints.beyond import beyond
from flyweight.config import schema
from flyweight.errors import RequestError


class Inexpressible(RequestError):
    """A model that one side has no words for; the message has every reason."""

    def __init__(self, what: str, reasons: list[str]) -> None:
        super().__init__(f"{what}: {'; '.join(reasons)}")
        self.reasons = reasons


@dataclass(frozen=True)
class Part:
    """Where our tensors stand in a checkpoint: several are stacked along the output.

    `transposed` is for GPT-2's matrices, which are stored (in, out).
    """

    ours: tuple[str, ...]
    theirs: str
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint; `dropouts` are the rates of ours that its config has words for.

    `claims` are the fields of ours that `write` writes or refuses. Any other that is not at its
    default is refused.
    """

    model_type: str
    architecture: str
    prefix: str
    read: Callable[[Fields], dict[str, Any]]
    write: Callable[[schema.ModelConfig, list[str]], dict[str, Any]]
    parts: Callable[[schema.ModelConfig], Iterator[Part]]
    dropouts: tuple[str, ...]
    claims: frozenset[str]

    def lost_dropout(self, config: schema.ModelConfig) -> dict[str, float]:
        """Return the rates that this family's config cannot say; they act in training alone."""
        rates: dict[str, float] = config.dropout.model_dump()
        return {name: rate for name, rate in rates.items() if rate and name not in self.dropouts}

    def config(self, fields: Fields) -> schema.ModelConfig:
        """Return the model that a config's attributes describe.

        Raises Inexpressible with every reason why there is none.
        """
        model = self.read(fields)
        reasons = [*fields.reasons, *fields.left()]
        if not reasons:
            try:
                return schema.ModelConfig.model_validate(model).resolved()
            except ValueError as error:
                reasons.append(" ".join(str(error).split()))
        raise Inexpressible(
            f"this {self.model_type} model is not one that flyweight's decoder computes", reasons
        )

    def raw(self, config: schema.ModelConfig) -> dict[str, Any]:
        """Return the `config.json` of a resolved config.

        Raises Inexpressible with every reason why there is none.
        """
        reasons = beyond(config, self.claims)
        attributes = self.write(config, reasons)
        if reasons:
            raise Inexpressible(f"not a {self.model_type} model", reasons)
        return {"model_type": self.model_type, "architectures": [self.architecture], **attributes}


def need(reasons: list[str], holds: bool, why: str) -> None:
    """Note a reason why a model is not of a family, where something that it needs does not hold."""
    if not holds:
        reasons.append(why)
