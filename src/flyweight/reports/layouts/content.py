"""What every layout is made of: tables of linked cells, figures, and targets with verdicts.

A page and a JSON file show the same content. Each cell names the artifacts that it comes from, or
says why it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import JsonValue

from flyweight.reports.figures.run import Drawing

TargetVerdict = Literal["reached", "not reached", "undecided", "not measured"]


@dataclass(frozen=True)
class Printed:
    """A number as the paper prints it, in the paper's unit."""

    value: float
    unit: str = ""

    @property
    def text(self) -> str:
        """The number with its unit."""
        return f"{self.value} {self.unit}".strip()

    def json(self) -> dict[str, JsonValue]:
        """Return it as plain data."""
        return {"value": self.value, "unit": self.unit, "text": self.text}


@dataclass(frozen=True)
class LinkedCell:
    """A number or word with the artifacts that it comes from, or why there is none.

    `text` is what a page shows, and `sub` what stands smaller below it. `low` and `high` bound the
    95 % interval. `setting` says how it was measured. `printed` is the paper's own number.
    """

    value: float | str | None = None
    unit: str = ""
    text: str = ""
    sub: str = ""
    low: float | None = None
    high: float | None = None
    artifacts: tuple[str, ...] = ()
    setting: str = ""
    missing: str = ""
    printed: Printed | None = None

    @property
    def number(self) -> float | None:
        """The value where it is a number."""
        return None if isinstance(self.value, str) else self.value

    @property
    def title(self) -> str:
        """What a page shows over the cell: its artifacts and how it was measured."""
        return ", ".join(filter(None, [*self.artifacts, self.setting]))

    def json(self) -> dict[str, JsonValue]:
        """Return it as plain data; a number that is infinite is the string `Infinity`."""
        return {
            "value": _plain(self.value),
            "low": _plain(self.low),
            "high": _plain(self.high),
            "unit": self.unit,
            "text": self.text,
            "sub": self.sub,
            "artifact": self.artifacts[0] if self.artifacts else None,
            "artifacts": list(self.artifacts),
            "setting": self.setting,
            "missing": self.missing or None,
            "printed": None if self.printed is None else self.printed.json(),
        }


def _plain(value: float | str | None) -> float | str | None:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


@dataclass(frozen=True)
class LinkedRow:
    """A row of a table: its label, the stage that it is about, and its cells by column.

    `factors` are the levels of an experiment that the row is at, by factor.
    """

    label: str
    stage: str
    cells: dict[str, LinkedCell]
    factors: dict[str, str | int] = field(default_factory=dict[str, str | int])


@dataclass(frozen=True)
class LinkedTable:
    """A paper's table. `columns` are titles by key; `empty` says why it has no rows."""

    kind: ClassVar[str] = "table"
    key: str
    title: str
    columns: dict[str, str]
    rows: tuple[LinkedRow, ...]
    notes: tuple[str, ...] = ()
    empty: str = ""

    def cells(self) -> Iterator[LinkedCell]:
        """Yield every cell, row by row."""
        for row in self.rows:
            yield from (row.cells[key] for key in self.columns)

    def json(self) -> JsonValue:
        """Return it as plain data."""
        return {
            "title": self.title,
            "columns": dict(self.columns),
            "rows": [
                {
                    "name": row.label,
                    "stage": row.stage,
                    "factors": dict(row.factors),
                    "cells": {key: row.cells[key].json() for key in self.columns},
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
            "missing": self.empty or None,
        }


@dataclass(frozen=True)
class LinkedLine:
    """A series of a figure: linked numbers over x, or why there are none.

    `colour` and `shape` are those of its model elsewhere on the page.
    """

    label: str
    stage: str
    points: tuple[tuple[float, LinkedCell], ...] = ()
    missing: str = ""
    colour: int = 0
    shape: int = 0

    def json(self) -> JsonValue:
        """Return it as plain data."""
        return {
            "name": self.label,
            "stage": self.stage,
            "points": [{"x": x, **cell.json()} for x, cell in self.points],
            "missing": self.missing or None,
        }


@dataclass(frozen=True)
class LinkedFigure:
    """A paper's figure: its series, and how they are drawn; `draw` takes a prefix for ids.

    `categories` are the names that the series' x number from 0, where x is not a quantity. `marks`
    are numbers beside the series, such as a bound.
    """

    kind: ClassVar[str] = "figure"
    key: str
    title: str
    x: str
    y: str
    lines: tuple[LinkedLine, ...]
    draw: Callable[[LinkedFigure, str], list[Drawing]]
    categories: tuple[str, ...] = ()
    marks: dict[str, LinkedCell] = field(default_factory=dict[str, LinkedCell])
    notes: tuple[str, ...] = ()

    @property
    def drawable(self) -> list[LinkedLine]:
        """The series that have points."""
        return [line for line in self.lines if line.points]

    def cells(self) -> Iterator[LinkedCell]:
        """Yield every number, series by series."""
        for line in self.lines:
            yield from (cell for _, cell in line.points)
        yield from self.marks.values()

    def drawings(self, prefix: str) -> list[Drawing]:
        """Return the figure as SVG, in one part or several; nothing where there are no points."""
        return self.draw(self, prefix) if self.drawable else []

    def json(self) -> JsonValue:
        """Return it as plain data."""
        return {
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "categories": list(self.categories),
            "lines": [line.json() for line in self.lines],
            "marks": {name: cell.json() for name, cell in self.marks.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class TargetComparison:
    """Two models side by side: their numbers, the change, and whether it is as large as asked.

    `what` says what is compared, and what is equal on both sides. A verdict is undecided where the
    change's interval holds the bound.
    """

    what: str
    before: LinkedCell
    after: LinkedCell
    change: LinkedCell
    verdict: TargetVerdict

    def json(self) -> JsonValue:
        """Return it as plain data."""
        return {
            "control": self.what,
            "baseline": self.before.json(),
            "light": self.after.json(),
            "change": self.change.json(),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class PaperTarget:
    """What a paper set out to reach, judged by `judged` comparisons; `controls` do not judge."""

    key: str
    title: str
    asked: str
    claimed: str
    judged: tuple[TargetComparison, ...]
    controls: tuple[TargetComparison, ...] = ()

    @property
    def verdict(self) -> TargetVerdict:
        """Whether all that judge reach it; else why not, the surest reason first."""
        verdicts = {comparison.verdict for comparison in self.judged}
        reasons: tuple[TargetVerdict, ...] = ("not reached", "undecided", "not measured")
        for reason in reasons:
            if reason in verdicts:
                return reason
        return "reached"

    def json(self) -> JsonValue:
        """Return it as plain data."""
        return {
            "key": self.key,
            "title": self.title,
            "asked": self.asked,
            "claimed": self.claimed,
            "verdict": self.verdict,
            "judged": [comparison.json() for comparison in self.judged],
            "controls": [comparison.json() for comparison in self.controls],
        }


@dataclass(frozen=True)
class TargetTable:
    """A paper's targets with their verdicts; `after` heads the second number of a comparison."""

    kind: ClassVar[str] = "targets"
    key: str
    title: str
    targets: tuple[PaperTarget, ...]
    notes: tuple[str, ...] = ()
    after: str = "light"

    def cells(self) -> Iterator[LinkedCell]:
        """Yield every number, target by target."""
        for target in self.targets:
            for each in (*target.judged, *target.controls):
                yield from (each.before, each.after, each.change)

    def json(self) -> JsonValue:
        """Return it as plain data."""
        return [target.json() for target in self.targets]


LayoutPart = LinkedTable | LinkedFigure | TargetTable


def reasons(part: LayoutPart) -> list[str]:
    """Return why cells or series of a part are missing, each reason once: a page numbers them."""
    missing = [cell.missing for cell in part.cells()]
    if isinstance(part, LinkedFigure):
        missing += [f"{line.label}: {line.missing}" for line in part.lines if line.missing]
    return list(dict.fromkeys(filter(None, missing)))


@dataclass(frozen=True)
class LayoutContent:
    """A layout's parts in the order of a page."""

    name: str
    title: str
    parts: tuple[LayoutPart, ...]

    def __getitem__(self, key: str) -> LayoutPart:
        """Return a part by its key."""
        return next(part for part in self.parts if part.key == key)

    def json(self) -> dict[str, JsonValue]:
        """Return every part as plain data under its key."""
        return {part.key: part.json() for part in self.parts}

    def artifacts(self) -> list[str]:
        """Return every artifact that a cell comes from, each once."""
        cells = (cell for part in self.parts for cell in part.cells())
        return list(dict.fromkeys(name for cell in cells for name in cell.artifacts))


def missing_cell(why: str, printed: Printed | None = None) -> LinkedCell:
    """Return a cell without a number."""
    return LinkedCell(missing=why, printed=printed)


def first_missing(cells: Sequence[LinkedCell]) -> str:
    """Return why the first of some cells is missing; empty where all are there."""
    return next((cell.missing for cell in cells if cell.missing), "")
