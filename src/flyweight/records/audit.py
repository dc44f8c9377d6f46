"""The audit of a model: what the checks write, and what summaries, cards and pages read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flyweight.records.sealed import Record

CheckVerdict = Literal["pass", "fail", "n/a"]


class Check(Record):
    """One check: what it would catch, the measured number, its bound, and what was found.

    `why` is what was found, or the reason of `n/a`. Audits of earlier versions lack `catches`.
    """

    name: str
    measured: float | None
    bound: float | None
    verdict: CheckVerdict
    why: str = ""
    catches: str = ""

    def to_metrics(self) -> dict[str, object]:
        """Return the check as plain data.

        An infinite number is the string `Infinity`, which JSON can hold.
        """
        measured: float | str | None = self.measured
        if self.measured is not None and not math.isfinite(self.measured):
            measured = "Infinity"
        return {**self.model_dump(), "measured": measured}


class AuditResult(Record):
    """All checks of one model; `passed` means that none failed."""

    passed: bool
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, checks: Sequence[Check]) -> AuditResult:
        """Return the audit that these checks make; it passed unless one failed."""
        passed = all(check.verdict != "fail" for check in checks)
        return cls(passed=passed, checks=tuple(checks))

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> AuditResult:
        """Return the audit that a `metrics.json` holds.

        Raises KeyError or ValueError where it does not hold one.
        """
        return cls(passed=metrics["passed"], checks=metrics["checks"])

    def to_metrics(self) -> dict[str, object]:
        """Return the checks and the verdict as plain data."""
        return {"checks": [check.to_metrics() for check in self.checks], "passed": self.passed}
