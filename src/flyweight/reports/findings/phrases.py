"""Turns of phrase that every finding is made of, and the finding itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flyweight.config.units import decimals_of_difference, format_bits, format_signed
from flyweight.reports.models import RankedModel
from flyweight.reports.ranking import PairedDifference

Kind = Literal["paid", "not paid", "undecided", "warning", "note"]

MARKS: dict[Kind, str] = {
    "paid": "+",
    "not paid": "-",
    "undecided": "?",
    "warning": "!",
    "note": "·",
}


@dataclass(frozen=True)
class RunFinding:
    """One thing worth saying: a sentence, and the sentences that support it.

    Names of models stand in backticks.
    """

    kind: Kind
    title: str
    text: str = ""

    @property
    def mark(self) -> str:
        """One character for terminals."""
        return MARKS[self.kind]


FLOORS = {"kn5": "5-gram (Kneser-Ney)"}
"""Names of floors as people read them, where they are not the key itself."""

FLOOR = (
    "A floor is what counting reaches: how often each token follows the few before it in the "
    "training"
    " text. Any model has to beat it."
)


def floor_name(key: str) -> str:
    """Return a floor's name in sentences and tables.

    Keys may end in their tokenizer: `kn5, bpe (4,096)`.
    """
    kind, comma, tokenizer = key.partition(", ")
    return f"{FLOORS.get(kind, kind)}{comma}{tokenizer}"


def short_floor_name(key: str) -> str:
    """Return a floor's name in a figure, where room is scarce: `5-gram`."""
    return floor_name(key).replace(" (Kneser-Ney)", "")


def name(ranked: RankedModel) -> str:
    """Return a model's name, marked as such."""
    return f"`{ranked.label}`"


def bits(ranked: RankedModel) -> str:
    """Return a model's bits per byte as it stands in every sentence and table."""
    return format_bits(ranked.bits.value) if ranked.bits else "unmeasured"


def change(gap: PairedDifference) -> str:
    """Return a difference about its first model, with the interval: better, worse or undecided."""
    source = "95 % interval" if gap.paired else "unpaired 95 % intervals:"
    decimals = decimals_of_difference(gap.low, gap.high)
    if gap.verdict == "undecided":
        why = f"; {gap.why}" if gap.why else ""
        shown, low, high = (
            format_signed(value, decimals) for value in (gap.difference, gap.low, gap.high)
        )
        return f"undecided: the difference is {shown} ({source} {low} to {high}{why})"
    low, high = sorted((abs(gap.low), abs(gap.high)))
    shown, low, high = (f"{abs(value):.{decimals}f}" for value in (gap.difference, low, high))
    return f"{gap.verdict} by {shown} ({source} {low} to {high})"


def and_list(items: Sequence[str], word: str = "and") -> str:
    """Return items as a list in a sentence."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"
