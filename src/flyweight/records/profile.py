"""Where the time of a generation goes: what the stage `profile` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import JsonValue

from flyweight.records.sealed import Record


class OperatorTime(Record):
    """One operator: how often it was called, and what it took itself, without those it calls."""

    name: str
    calls: int
    self_ms: float
    device_ms: float


class GroupTimes(Record):
    """Milliseconds of the operators that multiply matrices, on the device where one computes.

    `attention` is that of fused kernels; `other_gemm` are products of packed and of few rows. What
    an unfused attention multiplies counts as `matmul`. `step` are compiled steps: one token through
    all layers, attention included.
    """

    addmm: float
    mm: float
    matmul: float
    attention: float
    other_gemm: float
    step: float = 0.0


class ProfileResult(Record):
    """Operators of one generation in a fresh process, the most expensive ones first.

    `cpu_ms` and `device_ms` are their sums. `tokens` were generated after `prompt` others, in
    `generate_ms` of the clock without a profiler.
    `peak_bytes` is over the interpreter's own memory, `kernel` the attention that was seen.
    """

    operators: tuple[OperatorTime, ...]
    groups: GroupTimes
    cpu_ms: float
    device_ms: float
    generate_ms: float
    peak_bytes: int
    tokens: int
    prompt: int
    kernel: str
    attention: str
    engine: str
    precision: str
    device: str
    threads: int
    torch: str

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, object]) -> Self:
        """Return what a `metrics.json` holds."""
        return cls.model_validate(metrics)

    def to_metrics(self) -> dict[str, JsonValue]:
        """Return everything as plain data."""
        return self.model_dump(mode="json")
