"""What the LightGPT2 paper prints in Tables IV to VI: it stands beside our numbers, marked.

Its perplexities count padding as text, and those of Table IV are scaled by 0.001.
"""

from __future__ import annotations

from flyweight.reports.layouts.content import Printed
from flyweight.reports.layouts.lightgpt2.roles import (
    BASELINE,
    BASELINE_LORA,
    BASELINE_LORA_PRUNED,
    STUDENT,
    TEACHER,
    TUNED,
)

UNITS = {
    "hours": "h",
    "peak_bytes": "MB",
    "validation": "",
    "forward_ms": "ms",
    "forward_samples_per_s": "/s",
    "generate_ms": "ms",
    "generate_samples_per_s": "/s",
}
"""The paper's units by column."""

_TABLE_5 = {
    BASELINE: (0.55, 12031.7, 7.57, 8.8, 113.2, 13.7, 73.1),
    BASELINE_LORA: (0.42, 9509.8, 7.97, 9.2, 109.1, 13.4, 74.8),
    BASELINE_LORA_PRUNED: (0.42, 10978.9, 7.98, 9.2, 109.0, 13.4, 74.8),
    TUNED: (0.43, 4024.2, 8.34, 9.4, 106.3, 15.2, 65.9),
}
_TABLE_6 = {
    "Baseline": (2112.2, 7.57, 8.9, 112.5, 11.2, 89.2),
    "Distilled LoRA pruned": (2112.7, 8.35, 9.9, 101.0, 13.1, 76.2),
    "+ NF4": (1537.0, 8.46, 3.3, 305.7, 8.0, 125.0),
    "+ Flash": (2112.7, 8.35, 8.7, 115.4, 12.3, 81.5),
    "+ Flash + NF4": (1537.0, 8.46, 3.0, 330.4, 7.8, 127.6),
}
_TABLE_4 = {TEACHER: (5.37, 342.32), BASELINE: (6.88, 252.17), STUDENT: (5.99, 252.17)}


def _named(names: tuple[str, ...], values: tuple[float, ...]) -> dict[str, Printed]:
    pairs = zip(names, values, strict=True)
    return {name: Printed(value, UNITS[name]) for name, value in pairs}


TABLE_4 = {role: _named(("validation", "peak_bytes"), row) for role, row in _TABLE_4.items()}
TABLE_5 = {role: _named(tuple(UNITS), row) for role, row in _TABLE_5.items()}
TABLE_6 = {label: _named(tuple(UNITS)[1:], row) for label, row in _TABLE_6.items()}
"""Printed numbers by row and column."""

NOTE = (
    "The paper's numbers are as it prints them. Its perplexities count padding as text, and its "
    "milliseconds are those of a batch, shared out among the samples."
)
SCALED = "The paper's perplexities in this table are scaled by 0.001 as well."
