"""A run's results as trackers take them: tables of text, and numbers by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flyweight.reports.layouts.content import LayoutPart, LinkedTable, TargetTable
from flyweight.reports.report import RunReport
from flyweight.reports.tables import run as run_tables
from flyweight.tables.engine import Table

Number = tuple[str, float, float | None, float | None]
"""A number's name, its value, and the ends of its 95 % interval where it has one."""


@dataclass(frozen=True)
class PlainTable:
    """A table as text: the titles of its columns, then its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def plain_tables(report: RunReport) -> list[PlainTable]:
    """Return a report's tables: of each text, of each task, and those of a paper's layout."""
    usual = [_plain(title, table) for title, table in _tables(report)]
    papers = [_of_part(part) for part in _parts(report)]
    return [*usual, *(table for table in papers if table is not None)]


def numbers(report: RunReport) -> dict[str, float]:
    """Return every number of a report's tables as `<model>/<column>`.

    Where there is an interval, its ends are `<model>/<column>_low` and `_high`. Of the second table
    on, the title comes first.
    """
    found = dict[str, float]()
    for name, value, low, high in _numbers(report):
        found[name] = value
        if low is not None and high is not None and low < high:
            found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def _tables(report: RunReport) -> Iterator[tuple[str, Table[Any]]]:
    """Yield the titles and tables of a report: one for each text, then those of tasks."""
    several = len(report.groups) > 1
    for group in report.groups:
        name = group.text.name if group.text and several else ""
        yield f"comparison {name}".strip(), run_tables.table(group)
    yield from report.task_tables


def _parts(report: RunReport) -> Iterator[LayoutPart]:
    for _, content in report.layouts:
        yield from content.parts


def _plain(title: str, table: Table[Any]) -> PlainTable:
    rows: list[list[str]] = []
    for row in table.rows:
        cells = [column.cell(row.of) for column in table.columns]
        rows.append([row.label, *("" if cell is None else cell.text for cell in cells)])
    return PlainTable(title, [table.head, *(column.title for column in table.columns)], rows)


def _of_part(part: LayoutPart) -> PlainTable | None:
    """Return a layout's table, or its targets with their verdicts; None for a figure."""
    if isinstance(part, LinkedTable):
        rows = [[row.label, *(row.cells[key].text for key in part.columns)] for row in part.rows]
        return PlainTable(part.key, ["row", *part.columns.values()], rows)
    if isinstance(part, TargetTable):
        targets = [[each.title, each.asked, each.claimed, each.verdict] for each in part.targets]
        return PlainTable(part.key, ["target", "asked", "claimed", "verdict"], targets)
    return None


def _numbers(report: RunReport) -> Iterator[Number]:
    for place, (title, table) in enumerate(_tables(report)):
        before = "" if place == 0 else f"{title}/"
        for row in table.rows:
            for column in table.columns:
                cell = column.cell(row.of)
                if cell is not None and cell.metric is not None:
                    name, metric = f"{before}{row.key}/{column.key}", cell.metric
                    yield name, metric.value, metric.low, metric.high
    for part in _parts(report):
        if isinstance(part, LinkedTable):
            yield from _numbers_of_part(part)


def _numbers_of_part(part: LinkedTable) -> Iterator[Number]:
    for row in part.rows:
        for key, cell in row.cells.items():
            if cell.number is not None:
                yield f"{part.key}/{row.label}/{key}", cell.number, cell.low, cell.high
