"""One finding about this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "missing", "slow", "broken"]


@dataclass(frozen=True)
class Line:
    """One finding in words (`found`), its verdict, and a remedy where something is wrong.

    `needed` is true where no work is possible without it. `values` are the numbers behind `found`.
    """

    group: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    needed: bool = False
    values: dict[str, Any] = field(default_factory=dict)
