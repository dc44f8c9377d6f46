"""The mistakes of the papers that flyweight began with, each planted in something small.

A mistake is *caught* where a check of the audit fails on it, *refused* where flyweight raises before
any work, and *impossible* where there is no way to write it down. `docs/audit.md` has the table.
"""

from audit.planted import comparisons, compression, scoring, training
from audit.planted.mistake import Mistake

MISTAKES: tuple[Mistake, ...] = (
    *scoring.MISTAKES,
    *training.MISTAKES,
    *compression.MISTAKES,
    *comparisons.MISTAKES,
)

ORDER = ("lightgpt2", "distilqwen3", "compact-ladder", "others")


def table() -> str:
    """Return the table of docs/audit.md."""
    rows = sorted(MISTAKES, key=lambda each: (ORDER.index(each.page), each.number, each.name))
    lines = ["| mistake | where from | what happens | by |", "|---|---|---|---|"]
    for each in rows:
        origin = each.page if each.page == "others" else f"{each.page} {each.number}"
        lines.append(f"| {each.about} | {origin} | {each.outcome} | {each.by} |")
    return "\n".join(lines)
