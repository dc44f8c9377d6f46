"""A comparison in words: the verdicts of the intervals, and the models' sizes and costs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.config import schema
from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count, format_size
from flyweight.core.notebook import frame, html_table, with_interval
from flyweight.errors import FlyweightError
from flyweight.evaluation.compare import Comparison, Paired, Row, needed_text
from flyweight.planning.recipe_plan import ModelPlan
from flyweight.records.run_summary import Difference

if TYPE_CHECKING:
    import pandas

MUCH = 100.0
"""How many times the text is the most that a message advises for a decision."""


@dataclass(frozen=True)
class Size:
    """A model's size and its cost in FLOPs.

    `bytes` are those of its weights' files. `forward_per_token` are FLOPs at its full context, None
    for a model behind an adapter. `training_flops` include those of its teachers. They are None for
    a model that was trained elsewhere.
    """

    parameters: int
    bytes: int
    forward_per_token: float | None
    training_flops: float | None

    @classmethod
    def of(cls, folder: Path, facts: Mapping[str, Any]) -> Size:
        """Return the size of the model in a folder, without loading it."""
        from flyweight.checkpoints import load_any

        weights = sorted(folder.glob("*.safetensors"))
        config = load_any.config(folder)
        if isinstance(config, schema.ModelConfig):
            plan = ModelPlan.of(config)
            parameters, forward = plan.parameters.unique, plan.forward_per_token
        else:
            parameters, forward = sum(map(_elements, weights)), None
        return cls(
            parameters=parameters,
            bytes=sum(file.stat().st_size for file in weights),
            forward_per_token=forward,
            training_flops=facts.get("total_flops"),
        )


def _elements(file: Path) -> int:
    """Return how many numbers a safetensors file holds, by its header."""
    with open(file, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(
        math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
    )


@dataclass(frozen=True, repr=False)
class Compared:
    """A comparison with the sizes of its models; iterate over it for its rows, best first."""

    comparison: Comparison
    sizes: Mapping[str, Size]
    same_tokenizer: bool
    split: str

    def __iter__(self) -> Iterator[Row]:
        return iter(self.comparison.rows)

    def __repr__(self) -> str:
        return (
            f"<Compared {', '.join(row.name for row in self)} on {self.split}; print it for "
            f"the verdicts>"
        )

    def __str__(self) -> str:
        return "\n".join([*self.verdicts(), *(f"note: {note}" for note in self.notes())])

    def _repr_html_(self) -> str:
        rows = [{head: escape(cell) for head, cell in self.cells(row).items()} for row in self]
        notes = [*self.verdicts(), *self.notes()]
        return html_table(list(rows[0]), [list(row.values()) for row in rows], notes)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each model, best first; needs pandas.

        `difference` is the model's metric minus the reference's, with its 95 % interval.
        """
        return frame([self._row(row) for row in self], "model")

    def _row(self, row: Row) -> dict[str, Any]:
        bits = row.paired and row.paired.decisive
        ends = (bits.value, bits.low, bits.high) if bits else (None, None, None)
        return {
            "model": row.name,
            "bits_per_byte": row.bits_per_byte,
            "nll": row.nll,
            **row.metrics,
            **with_interval("difference", *ends),
            "verdict": row.verdict,
            "p": row.p,
            **asdict(self.sizes[row.name]),
        }

    def cells(self, row: Row) -> dict[str, str]:
        """Return a model's cells as text, by the title of their column."""
        size = self.sizes[row.name]
        difference, interval, verdict = "", "", "the reference"
        if row.paired is not None:
            bits = row.paired.decisive
            n = digits(bits)
            difference = f"{bits.value:+.{n}f}"
            interval = f"{bits.low:+.{n}f} ... {bits.high:+.{n}f}"
            verdict = str(row.verdict)
        quality = {"bits/byte": f"{row.bits_per_byte:.4f}"}
        if self.same_tokenizer:
            quality["nats/token"] = f"{row.nll:.4f}"
        return {
            "model": row.name,
            **self._metrics(row),
            **quality,
            "difference": difference,
            "95 % interval": interval,
            "verdict": verdict,
            "parameters": format_count(size.parameters),
            "bytes": format_size(size.bytes),
            "FLOPs/token": _count(size.forward_per_token),
            "FLOPs to make": _count(size.training_flops),
        }

    def _metrics(self, row: Row) -> dict[str, str]:
        """Return the cells of the metrics beside the likelihood that every model has."""
        return {
            metric_kind(name).title: f"{value:.4f}"
            for name, value in row.metrics.items()
            if all(name in other.metrics for other in self)
        }

    def verdicts(self) -> list[str]:
        """Return one plain sentence for each model but the reference."""
        return [self._sentence(row) for row in self if row.paired is not None]

    def notes(self) -> list[str]:
        """Return what a reader of the verdicts has to know."""
        comparison = self.comparison
        notes = []
        if not self.same_tokenizer:
            notes.append(
                "the models have different tokenizers: only bits per byte compare them, nats per "
                "token do not"
            )
        if any(any(pair.lossy) for pair in comparison.pairs.values()):
            notes.append(
                "some tokens do not give the text back: bits per byte are then too good. A verdict "
                "against a model of another tokenizer can be worse, but not better"
            )
        if comparison.family > 1:
            if comparison.chosen:
                count = "the best was chosen by this same text, so every pair counts"
            else:
                count = "one for each other model"
            notes.append(
                f"verdicts are corrected for {comparison.family} comparisons (Holm; {count}): the "
                f"chance that any of them is wrong is 5 %. The intervals are of one comparison "
                f"each, 95 %, not corrected"
            )
            if comparison.chosen:
                notes.append(
                    "--against MODEL fixes the reference beforehand, and fewer comparisons then "
                    "count"
                )
        return notes

    def json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        value = self.comparison.json()
        for entry in value["models"]:
            entry["size"] = asdict(self.sizes[entry["name"]])
        rest = {"same_tokenizer": self.same_tokenizer, "split": self.split}
        return {**value, **rest, "verdicts": self.verdicts(), "notes": self.notes()}

    def _sentence(self, row: Row) -> str:
        pair = row.paired
        if pair is None:
            raise FlyweightError(f"{row.name} is the reference itself")
        decisive = pair.decisive
        reference = self.comparison.reference
        count = self.comparison.family
        n = digits(decisive)
        where = f"{pair.n_units:,} {pair.kind}{'s' * (pair.n_units != 1)}"
        if row.verdict in ("better", "worse"):
            low, high = sorted((abs(decisive.low), abs(decisive.high)))
            corrected = f", corrected p = {row.p:.2g}" if count > 1 else ""
            return (
                f"{row.name} is {row.verdict} than {reference} "
                f"by {abs(decisive.value):.{n}f} {decisive.unit} "
                f"(95 % interval {low:.{n}f} to {high:.{n}f}, {where}{corrected})"
            )
        if pair.flattered:
            return (
                f"{row.name} against {reference}: undecided (the better one's tokens do not give "
                f"the text back, which makes its bits per byte too good; the interval is "
                f"{decisive.low:+.{n}f} to {decisive.high:+.{n}f}, {where})"
            )
        if pair.verdict == "undecided":
            why = (
                f"the interval {decisive.low:+.{n}f} to {decisive.high:+.{n}f} {decisive.unit} "
                f"contains 0, {where}"
            )
        else:
            why = (
                f"its own interval {decisive.low:+.{n}f} to {decisive.high:+.{n}f} leaves 0 out, "
                f"but {count} comparisons were made"
            )
        return f"{row.name} against {reference}: undecided ({why}); {_would_decide(pair, count)}"


def _count(value: float | None) -> str:
    return "" if value is None else format_count(value)


def digits(bits: Difference) -> int:
    """Return the decimals for a difference and its interval: four to nine, for two figures."""
    largest = max(abs(bits.low), abs(bits.high))
    if largest == 0:
        return 4
    return min(9, max(4, 1 - math.floor(math.log10(largest))))


def _would_decide(pair: Paired, comparisons: int) -> str:
    bits, times = pair.decisive, needed_text(pair, comparisons)
    if times > MUCH:
        most = max(abs(bits.low), abs(bits.high))
        return (
            f"if there is a difference it is hardly above {most:.{digits(bits)}f}, and no "
            f"text of a usual size would show it"
        )
    factor = f"{times:.2g}" if times < 10 else f"{times:.0f}"
    return (
        f"about {factor} times as much text would decide it, if the difference is really "
        f"{bits.value:+.{digits(bits)}f}"
    )
