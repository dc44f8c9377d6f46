"""What `compress` tried and chose: ways by their bytes, speed and validation."""

from __future__ import annotations

from typing import Literal

from flyweight.records.metric import Metric
from flyweight.records.sealed import Record
from flyweight.records.verification import Verification


class Tried(Record):
    """One way to a smaller model, measured on the validation split.

    `steps` say what was done. `bytes` are those of its weights. `speed` is how many times as fast
    as the model it generates, None where no speed was asked for. `plain` is quantization to nearest
    and nothing else. `seconds` and `tokens` are what making it took, parts that it shares with
    others included: `tokens` were trained on.
    """

    name: str
    id: str
    steps: tuple[str, ...] = ()
    bytes: int
    bits_per_byte: Metric
    speed: float | None = None
    plain: bool = False
    seconds: float = 0.0
    tokens: int = 0

    def beats(self, other: Tried) -> bool:
        """Return whether it is as good as another one in everything, and better in something."""
        mine, others = self._figures(), other._figures()
        return mine != others and all(a <= b for a, b in zip(mine, others, strict=True))

    def _figures(self) -> tuple[float, float, float]:
        """Return what should be low: bytes, bits per byte, and the speed with its sign changed."""
        return self.bytes, self.bits_per_byte.value, -(self.speed or 0.0)


class Compression(Record):
    """A compression within one limit: every try, the Pareto front, what was chosen, what it cost.

    `model` is the artifact that was compressed, of `bytes` and `bits_per_byte` on validation. The
    validation split chose; `test` has the bits per byte of the chosen way and of the best `plain`
    one on the test split. `verification` tells whether the exports of the chosen way are the
    model that was measured. `seconds` and `tokens` are those of all tries together, also of what
    was kept from before. `left_out` says which ways could not be tried, and why.
    """

    model: str
    limit: Literal["bytes", "speed", "loss"]
    value: float
    bytes: int
    bits_per_byte: Metric
    chosen: str
    plain: str
    plain_fits: bool
    tried: tuple[Tried, ...]
    front: tuple[str, ...]
    test: dict[str, Metric]
    audit_passed: bool
    verification: Verification
    seconds: float
    tokens: int
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the audit of the chosen way passed, and none of its exports is another model."""
        failed = any(each.verdict == "fail" for each in self.verification.exports)
        return self.audit_passed and not failed

    def __getitem__(self, name: str) -> Tried:
        """Return a try by its name."""
        return next(each for each in self.tried if each.name == name)
