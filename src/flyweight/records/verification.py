"""Whether exports of a model are that model: what the stage `verify` writes and cards read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import JsonValue

from flyweight.records.metric import Metric
from flyweight.records.sealed import Record

Loss = Literal["lossless", "rounded", "quantized"]
"""How an export holds the weights: to the bit, in 16 bits, or in fewer."""


class Agreement(Record):
    """How two models agree on a text, token by token.

    `nll` is that of the export and `nll_of_model` the model's, in nats per token. `difference` is
    the first minus the second, with its interval. `kl` is the mean of KL(model || export) in nats,
    `kl_999` what 99.9 % of the tokens stay below. `top_1` is the share of tokens at which both find
    the same token most probable.
    """

    tokens: int
    nll: Metric
    nll_of_model: Metric
    difference: Metric
    kl: Metric
    kl_999: float
    top_1: Metric

    @property
    def relative(self) -> float:
        """The difference of the NLL as a share of the model's."""
        return abs(self.difference.value) / max(abs(self.nll_of_model.value), 1e-12)


class Limits(Record):
    """What an export may lose: a share of the NLL, a mean divergence, and top-1 agreement.

    `kl` is None where the divergence is told and does not decide.
    """

    within: float
    top_1: float
    kl: float | None = None


class VerifiedExport(Record):
    """One export as one program reads it.

    `verdict` is `not run` where the program is not there or the format cannot hold the model; `why`
    says so, or what was found. `weaker` marks a reader of ours in place of the program that will
    use the file.
    """

    export: str
    format: str
    program: str
    verdict: Literal["pass", "fail", "not run"]
    why: str
    weaker: bool = False
    loss: Loss = "lossless"
    limits: Limits | None = None
    agreement: Agreement | None = None


class Verification(Record):
    """All exports of one model that were verified; it passed where one ran and none failed."""

    passed: bool
    exports: tuple[VerifiedExport, ...]

    @classmethod
    def of(cls, exports: Sequence[VerifiedExport]) -> Self:
        """Return the verification that these exports make."""
        verdicts = {each.verdict for each in exports}
        return cls(passed="pass" in verdicts and "fail" not in verdicts, exports=tuple(exports))

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Self:
        """Return what a `metrics.json` holds; raise ValueError where it does not hold one."""
        known = {name: value for name, value in metrics.items() if name in cls.model_fields}
        return cls.model_validate(known)

    def to_metrics(self) -> dict[str, JsonValue]:
        """Return the verification as plain data."""
        return self.model_dump(mode="json")
