"""A comparison in words: the verdicts of the intervals, and the models' sizes and costs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.config import schema
from flyweight.config.metrics import metric_kind
from flyweight.config.units import (
    decimals_of_difference,
    format_bits,
    format_count,
    format_p,
    format_signed,
    format_size,
    format_times,
)
from flyweight.core.notebook import frame, with_interval
from flyweight.errors import FlyweightError
from flyweight.evaluation.compare import ANSWERS, ComparedModel, Comparison, Paired, needed_text
from flyweight.planning.model_plan import ModelPlan
from flyweight.records.scores import TaskScores
from flyweight.reports.findings.phrases import and_list
from flyweight.reports.findings.tasks import floor_words
from flyweight.tables import engine
from flyweight.tables.engine import Cell, Column, Row, Table, Tone, shown_columns
from flyweight.visible import visible

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
    scores: Mapping[str, TaskScores] = field(default_factory=dict)
    """Each model's scores, where they were compared on a task."""

    def __iter__(self) -> Iterator[ComparedModel]:
        return iter(self.comparison.rows)

    def __repr__(self) -> str:
        return (
            f"<Compared {', '.join(row.name for row in self)} on {self.split}; print it for "
            f"the verdicts>"
        )

    def __str__(self) -> str:
        return "\n".join(
            [self.headline(), *self.verdicts(), *(f"note: {note}" for note in self.notes())]
        )

    def _repr_html_(self) -> str:
        above, below = (
            "".join(f"<p>{escape(visible(line))}</p>" for line in lines)
            for lines in ([self.headline(), *self.verdicts()], self.notes())
        )
        return above + engine.html(self.table()) + below

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each model, best first; needs pandas.

        `difference` is the model's metric minus the reference's, with its 95 % interval.
        """
        return frame([self._row(row) for row in self], "model")

    def _row(self, row: ComparedModel) -> dict[str, object]:
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

    def table(self) -> Table[ComparedModel]:
        """Return the table: quality, the difference from the reference, sizes and costs."""
        columns = (
            *self._quality(),
            *_DIFFERENCE,
            *(_size_column(self.sizes, *each) for each in _SIZES),
        )
        rows = tuple(Row(row.name, row.name, row) for row in self)
        return Table("comparison", shown_columns(columns, rows), rows)

    def _quality(self) -> list[Column[ComparedModel]]:
        """Return the columns of quality: of a text, or of a task, whose deciding metric leads."""
        if self.scores:
            shown = [name for scores in self.scores.values() for name in scores.shown]
            return [self._score(name) for name in dict.fromkeys([self.comparison.metric, *shown])]
        asked = [name for name in self.comparison.rows[0].metrics if self._measured(name)]
        likelihood = _QUALITY[: 2 if self.same_tokenizer else 1]
        return [*(_metric_column(name) for name in asked), *likelihood]

    def _score(self, name: str) -> Column[ComparedModel]:
        """Return the column of a task's metric."""

        def value(row: ComparedModel) -> float | None:
            metric = self.scores[row.name].metrics.get(name)
            return None if metric is None else metric.value

        return _metric_column(name, value)

    def _measured(self, name: str) -> bool:
        """Whether every model was measured in a metric beside the likelihood."""
        return all(name in row.metrics for row in self)

    def headline(self) -> str:
        """Return the verdict in one sentence: the best model, or how many are better and worse."""
        reference, others = self.comparison.reference, [row for row in self if row.paired]
        where = f"on the {self.split} split"
        if not self.comparison.chosen:
            counts = Counter(str(row.verdict) for row in others)
            listed = [
                f"{counts[verdict]} {'is' if counts[verdict] == 1 else 'are'} {verdict}"
                for verdict in ("better", "worse", "undecided")
                if counts[verdict]
            ]
            return f"Against {reference} {where}: {and_list(listed)}."
        alike = [row.name for row in others if row.verdict != "worse"]
        if not alike:
            return f"{reference} is the best of {len(others) + 1} models {where}."
        return (
            f"{reference} comes first {where}, but is not significantly better than "
            f"{and_list(alike, 'or')}."
        )

    def _task_cells(self, scores: TaskScores) -> dict[str, str]:
        """Return the cells of a task's metrics, the one that decides first."""
        names = dict.fromkeys([self.comparison.metric, *scores.shown])
        return {
            metric_kind(name).title: f"{scores.metrics[name].value:,.{metric_kind(name).digits}f}"
            for name in names
            if name in scores.metrics
        }

    def verdicts(self) -> list[str]:
        """Return one plain sentence for each model but the reference."""
        return [self._sentence(row) for row in self if row.paired is not None]

    def notes(self) -> list[str]:
        """Return what a reader of the verdicts has to know."""
        comparison = self.comparison
        notes = [f"{row.name}: {floor_words(self.scores[row.name])}" for row in self if self.scores]
        if not self.same_tokenizer and comparison.metric in ANSWERS:
            notes.append(
                "the models have different tokenizers: the scores of their answers compare them, "
                "perplexities per token do not"
            )
        elif not self.same_tokenizer:
            notes.append(
                "the models have different tokenizers: only bits per byte compare them, nats per "
                "token do not"
            )
        if any(any(pair.lossy) for pair in comparison.pairs.values()):
            notes.append(
                "some tokens do not give the text back, so their bits per byte are too good; "
                "against another tokenizer such a model can be worse, but not better"
            )
        if comparison.family > 1:
            if comparison.chosen:
                count = "this same text chose the best, so every pair counts"
            else:
                count = "one for each other model"
            notes += [
                f"verdicts are corrected for {comparison.family} comparisons (Holm's method; "
                f"{count}), so the chance that any of them is wrong is 5 %",
                "intervals are not corrected: each is the 95 % interval of one comparison",
            ]
            if comparison.chosen:
                notes.append("with --against MODEL fewer comparisons count")
        return notes

    def json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        value = self.comparison.json()
        for entry in value["models"]:
            entry["size"] = asdict(self.sizes[entry["name"]])
        rest: dict[str, Any] = {"same_tokenizer": self.same_tokenizer, "split": self.split}
        if self.scores:
            rest["scores"] = {name: scores.to_metrics() for name, scores in self.scores.items()}
        return {**value, **rest, "verdicts": self.verdicts(), "notes": self.notes()}

    def _sentence(self, row: ComparedModel) -> str:
        pair = row.paired
        if pair is None:
            raise FlyweightError(f"{row.name} is the reference itself")
        found, reference, count = pair.decisive, self.comparison.reference, self.comparison.family
        over = f"over {pair.n_units:,} {pair.kind}{'s' * (pair.n_units != 1)} of the text"
        if row.verdict in ("better", "worse"):
            low, high = sorted((abs(found.low), abs(found.high)))
            by, low, high = (_unsigned(pair, value) for value in (found.value, low, high))
            corrected = f", corrected {format_p(row.p)}" if count > 1 and row.p is not None else ""
            return (
                f"{row.name} is {row.verdict} than {reference} by {by} {found.unit} "
                f"(95 % interval {low} to {high} {over}{corrected})."
            )
        interval = (
            f"the 95 % interval of the difference, {_signed(pair, found.low)} to "
            f"{_signed(pair, found.high)} {found.unit} {over},"
        )
        start = f"{row.name} against {reference} is undecided:"
        if pair.flattered:
            return (
                f"{start} the better one's tokens do not give the text back, so its bits per byte "
                f"are too good; {interval} decides nothing."
            )
        if pair.verdict == "undecided":
            why = f"{interval} contains 0."
        else:
            why = f"{interval} does not contain 0, but {count} comparisons were made."
        return f"{start} {why} {_would_decide(pair, count)}"


def _metric_column(
    name: str, value: Callable[[ComparedModel], float | None] | None = None
) -> Column[ComparedModel]:
    """Return the column of a metric, which a row has itself unless `value` finds it."""
    kind = metric_kind(name)

    def cell(row: ComparedModel) -> Cell | None:
        found = row.metrics.get(name) if value is None else value(row)
        return None if found is None else Cell(kind.written(found))

    return Column(
        key=name, title=kind.title, about=kind.about, value=cell, better=kind.better, priority=2
    )


def _difference(row: ComparedModel) -> Cell | None:
    if row.paired is None:
        return None
    return Cell(_signed(row.paired, row.paired.decisive.value))


def _interval(row: ComparedModel) -> Cell | None:
    if row.paired is None:
        return None
    pair, found = row.paired, row.paired.decisive
    return Cell(f"{_signed(pair, found.low)} to {_signed(pair, found.high)}")


def _verdict(row: ComparedModel) -> Cell:
    if row.paired is None:
        return Cell("the reference")
    verdict = str(row.verdict)
    return Cell(verdict, tone=TONES.get(verdict, ""))


def _signed(pair: Paired, value: float) -> str:
    found, digits = pair.decisive, metric_kind(pair.by).digits
    return format_signed(value, decimals_of_difference(found.low, found.high, digits))


def _size_column(
    sizes: Mapping[str, Size], name: str, title: str, about: str, priority: int
) -> Column[ComparedModel]:
    """Return a column of sizes or costs, which no direction is better in by itself."""
    write = format_size if name == "bytes" else format_count

    def value(row: ComparedModel) -> Cell | None:
        amount = getattr(sizes[row.name], name)
        return None if amount is None else Cell(write(amount))

    return Column(key=name, title=title, about=about, value=value, priority=priority)


def _unsigned(pair: Paired, value: float) -> str:
    return _signed(pair, abs(value)).removeprefix("+")


def _would_decide(pair: Paired, comparisons: int) -> str:
    found, times = pair.decisive, needed_text(pair, comparisons)
    if times > MUCH:
        most = _unsigned(pair, max(abs(found.low), abs(found.high)))
        return (
            f"If there is a difference, it is at most about {most} {found.unit}, and no text of a "
            "usual size would show it."
        )
    return (
        f"About {format_times(times)} as much text would decide it, if the difference is really "
        f"{_signed(pair, found.value)}."
    )


TONES: dict[str, Tone] = {"better": "pass", "worse": "fail", "undecided": "open"}
"""Tones of verdicts."""

_QUALITY: tuple[Column[ComparedModel], ...] = (
    Column(
        key="bits_per_byte",
        title="bits/byte",
        about="bits to code a byte of the text",
        value=lambda row: Cell(format_bits(row.bits_per_byte)),
        better="lower",
        priority=2,
    ),
    Column(
        key="nll",
        title="nats/token",
        about="nats to code a token",
        value=lambda row: Cell(format_bits(row.nll)),
        better="lower",
        priority=6,
    ),
)
"""The likelihood's columns; nats per token compare models of one tokenizer only."""

_DIFFERENCE: tuple[Column[ComparedModel], ...] = (
    Column(
        key="difference",
        title="difference",
        about="from the reference",
        value=_difference,
    ),
    Column(
        key="interval",
        title="95 % interval",
        about="of the difference, resampled in pairs",
        value=_interval,
        priority=3,
    ),
    Column(
        key="verdict",
        title="verdict",
        about="against the reference, corrected for all comparisons",
        value=_verdict,
    ),
)

_SIZES = (
    ("parameters", "parameters", "stored", 5),
    ("bytes", "bytes", "size of the weights' files", 4),
    ("forward_per_token", "FLOPs/token", "of a forward pass at full context", 7),
    ("training_flops", "FLOPs to make", "of its whole training, teachers included", 8),
)
"""Name, title, meaning and priority of the columns of sizes and costs."""
