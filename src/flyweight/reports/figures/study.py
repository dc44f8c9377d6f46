"""Figures of a study: a metric against training FLOPs and against parameters, with Pareto fronts.

A colour is a family of models; a marker is a variant of it: the values of its grid's fields and its
context, which is what claims set against each other. A line joins the budgets of one model, dashed
in every variant but the first. A cell that is not a result is a cross and not part of a front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flyweight.config.metrics import MetricKind, metric_kind
from flyweight.config.units import format_count
from flyweight.records.study_summary import CellSummary, Spread, StudySummary
from flyweight.reports.figures import labels
from flyweight.reports.figures.canvas import (
    HEIGHT,
    NORMAL as NORMAL_TEXT,
    SMALL,
    WIDTH,
    Canvas,
    canvas,
    draw_floors,
    draw_front,
    name_points,
    scale_x,
    vertical,
)
from flyweight.reports.figures.run import SHAPES, Drawing
from flyweight.reports.figures.svg import COLOURS, figure_style, inline, series
from flyweight.reports.findings.phrases import and_list, short_floor_name
from flyweight.reports.ranking import front_cells
from flyweight.reports.tables.study import label, main_metric

NAMED = 8
"""Models of a front that are named; the page's table names them all."""

BARS = 40
"""With more points than this, only those of the front have their intervals drawn."""

AXES: dict[str, tuple[str, Callable[[CellSummary], float]]] = {
    "flops": ("training FLOPs", lambda cell: cell.flops),
    "parameters": ("parameters", lambda cell: float(cell.parameters)),
}


@dataclass(frozen=True)
class PlottedCell:
    """One sound cell in a figure."""

    cell: CellSummary
    x: float
    spread: Spread

    @property
    def low(self) -> float:
        """The lower end of its interval, or its mean."""
        return self.spread.mean if self.spread.low is None else self.spread.low

    @property
    def high(self) -> float:
        """The upper end of its interval, or its mean."""
        return self.spread.mean if self.spread.high is None else self.spread.high


def families(summary: StudySummary) -> dict[str, int]:
    """Return the families of a study's models with the number of their colour."""
    return {
        name: place
        for place, name in enumerate(dict.fromkeys(cell.family for cell in summary.cells))
    }


@dataclass(frozen=True)
class Style:
    """How one cell is drawn: the number of its colour, of its marker and of its line."""

    colour: int
    marker: str
    line: Any


LINES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


def variant(cell: CellSummary, contexts: bool) -> str:
    """Return what tells a cell from others of its family: fields of a grid, the context.

    It is empty where nothing does.
    """
    parts = [f"{path}={value}" for path, value in cell.fields.items()]
    return ", ".join([*parts, *([f"context {cell.context}"] if contexts else [])])


def variants(summary: StudySummary) -> dict[str, int]:
    """Return the variants of a study's models with the number of their marker.

    One alone where models have none.

    The plain models, without fields, come first.
    """
    contexts = len({cell.context for cell in summary.cells}) > 1
    names = dict.fromkeys(variant(cell, contexts) for cell in summary.cells)
    return {name: place for place, name in enumerate(sorted(names, key=bool))}


class Styles:
    """The colours of a study's families and the markers of its variants.

    Of its families where it has no variants.
    """

    def __init__(self, summary: StudySummary) -> None:
        self.families, self.variants = families(summary), variants(summary)
        self.contexts = len({cell.context for cell in summary.cells}) > 1

    def of(self, cell: CellSummary) -> Style:
        """Return how a cell is drawn."""
        family = self.families[cell.family]
        if len(self.variants) == 1:
            return Style(family, SHAPES[family % len(SHAPES)], LINES[0])
        place = self.variants[variant(cell, self.contexts)]
        return Style(family, SHAPES[place % len(SHAPES)], LINES[place % len(LINES)])

    def key(self) -> list[tuple[str, str, str]]:
        """Return what a figure's key says: (text, marker or nothing, colour).

        Families, then variants.
        """
        if len(self.variants) == 1:
            return [
                (name, SHAPES[place % len(SHAPES)], series(place))
                for name, place in self.families.items()
            ]
        named = [(name, "", series(place)) for name, place in self.families.items()]
        return named + [
            (name or "no variant", SHAPES[place % len(SHAPES)], COLOURS["muted"])
            for name, place in self.variants.items()
        ]


def drawings(summary: StudySummary, data: str, prefix: str) -> list[Drawing]:
    """Return the figures of one text that can be drawn: those with two sound cells at least."""
    cells = [cell for cell in summary.cells if cell.data == data]
    return [
        drawing
        for axis in AXES
        if (drawing := _scatter(summary, data, cells, axis, f"{prefix}{axis}"))
    ]


def _scatter(
    summary: StudySummary, data: str, cells: Sequence[CellSummary], axis: str, key: str
) -> Drawing | None:
    title, value = AXES[axis]
    metric, better = main_metric(summary)
    kind = metric_kind(metric)
    marks = [
        PlottedCell(cell, value(cell), spread)
        for cell in cells
        if (spread := cell.spread(metric)) and value(cell) > 0
    ]
    if len(marks) < 2:
        return None
    by_name = {mark.cell.name: mark for mark in marks}
    front = front_cells([mark.cell for mark in marks], metric, better, value)
    on_front = [by_name[cell.name] for cell in front]
    named = _named(on_front)
    floors = {
        name: getattr(floor, metric, None) for name, floor in summary.corpus[data].floors.items()
    }
    styles = Styles(summary)
    rows = key_rows(styles.key())
    height = KEY_ROW * len(rows) + 4
    with figure_style():
        sheet = canvas(height=HEIGHT + height, bottom=44 + height)
        draw_key(sheet, rows)
        scale_x(sheet.axes, [mark.x for mark in marks], format_count)
        vertical(
            sheet,
            *_span(marks, [each for each in floors.values() if each]),
            f"{kind.about.replace(' of the test split', '')}, {kind.better} is better",
        )
        sheet.text(
            46,
            8 + height,
            f"{title}  \N{LEFTWARDS ARROW} smaller is better",
            size=NORMAL_TEXT,
            color=COLOURS["muted"],
        )
        draw_front(sheet, [(mark.x, mark.spread.mean) for mark in on_front], "lower", better)
        if axis == "flops":
            _join(sheet, marks, styles)
        placed = [
            _point(
                sheet,
                mark,
                kind,
                f"p{place}",
                mark in on_front,
                len(marks) <= BARS,
                styles.of(mark.cell),
            )
            for place, mark in enumerate(marks)
        ]
        _crosses(sheet, cells, value, metric)
        draw_floors(
            sheet, [(short_floor_name(name), each) for name, each in floors.items() if each]
        )
        name_points(
            sheet,
            [placed[marks.index(mark)] for mark in named],
            [labels.short(label(mark.cell)) for mark in named],
            [series(styles.of(mark.cell).colour) for mark in named],
        )
        against = f"{kind.title} against {title}"
        alt = (
            f"Scatter plot of {against} on {data}, {len(marks)} cells. "
            f"On the Pareto front: {_stated(on_front, kind)}."
        )
        drawn = inline(sheet.figure, key, alt, sheet.tips)
        return Drawing(key, against, _caption(on_front, axis), drawn)


def _stated(marks: Sequence[PlottedCell], kind: MetricKind) -> str:
    """Return the numbers of some marks, for who does not see them."""
    return "; ".join(
        f"{mark.cell.name} {kind.written(mark.spread.mean)} at {format_count(mark.x)}"
        for mark in marks
    )


def _caption(on_front: Sequence[PlottedCell], axis: str) -> str:
    ends = and_list([f"{label(mark.cell)} {mark.cell.budget}" for mark in on_front])
    caption = f"On the front: {ends}. Bars: 95 % over seeds."
    if axis == "flops":
        caption += " Thin lines join the budgets of one model."
    return caption


KEY_ROW = 15.0
"""Height of one line of a figure's key."""


def key_rows(entries: Sequence[tuple[str, str, str]]) -> list[list[tuple[str, str, str]]]:
    """Return a key's entries in lines that fit the width of a figure."""
    rows: list[list[tuple[str, str, str]]] = [[]]
    used = 0.0
    for entry in entries:
        width = _key_width(entry)
        if rows[-1] and used + width > WIDTH - 46:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += width
    return rows


def _key_width(entry: tuple[str, str, str]) -> float:
    text, marker, _ = entry
    return labels.extent(text, SMALL)[0] + (26.0 if marker else 12.0)


def draw_key(sheet: Canvas, rows: Sequence[Sequence[tuple[str, str, str]]]) -> None:
    """Write what colours and markers mean below the axis."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    for place, row in enumerate(rows):
        x, y = 46.0, KEY_ROW * (len(rows) - 1 - place) + 4
        for entry in row:
            text, marker, colour = entry
            if marker:
                style = {"marker": marker, "markersize": 5.5, "color": colour, "linestyle": ""}
                sheet.axes.add_line(
                    Line2D(
                        [x + 4], [y + 3.5], transform=IdentityTransform(), clip_on=False, **style
                    )
                )
            sheet.text(x + (14 if marker else 0), y, text, color=colour)
            x += _key_width(entry)


def _named(front: Sequence[PlottedCell]) -> list[PlottedCell]:
    """Return the points of a front that are named: the best of every model, at most eight."""
    best = list({label(mark.cell): mark for mark in front}.values())
    if len(best) <= NAMED:
        return best
    return [best[round(place * (len(best) - 1) / (NAMED - 1))] for place in range(NAMED)]


def _span(marks: Sequence[PlottedCell], floors: Sequence[float]) -> tuple[float, float]:
    """Return the range that shows every mean, its interval and near floors.

    Intervals that are wider than the range of all means are cut.
    """
    means = [mark.spread.mean for mark in marks]
    room = max(max(means) - min(means), 0.02 * abs(min(means)))
    low = max(min(mark.low for mark in marks), min(means) - 0.5 * room)
    high = min(max(mark.high for mark in marks), max(means) + 0.5 * room)
    near = [floor for floor in floors if low - 0.3 * room <= floor <= high + 0.3 * room]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.08 * (high - low)
    return low - pad, high + pad


def _join(sheet: Canvas, marks: Sequence[PlottedCell], styles: Styles) -> None:
    """Draw a thin line through the budgets of every model."""
    curves: dict[tuple[str, int], list[PlottedCell]] = {}
    for mark in marks:
        curves.setdefault((label(mark.cell), mark.cell.context), []).append(mark)
    for members in curves.values():
        if len(members) > 1:
            line = sorted((mark.x, mark.spread.mean) for mark in members)
            style = styles.of(members[0].cell)
            sheet.axes.plot(
                *zip(*line, strict=True),
                color=series(style.colour),
                linewidth=0.9,
                linestyle=style.line,
                alpha=0.55,
            )
            sheet.obstacles += labels.along([sheet.display(*end) for end in line], 2.0)


def _point(
    sheet: Canvas,
    mark: PlottedCell,
    kind: MetricKind,
    gid: str,
    filled: bool,
    bars: bool,
    style: Style,
) -> tuple[float, float]:
    """Draw one cell with its interval and return its place in figure units."""
    (bottom, top), colour, y = sheet.axes.get_ylim(), series(style.colour), mark.spread.mean
    if bars or filled:
        ends = (max(mark.low, bottom), min(mark.high, top))
        sheet.axes.plot([mark.x, mark.x], ends, color=colour, linewidth=1.1, alpha=0.8)
        sheet.obstacles += labels.along([sheet.display(mark.x, end) for end in ends], 4.0)
    sheet.axes.plot(
        [mark.x],
        [y],
        color=colour,
        marker=style.marker,
        markersize=7.5 if filled else 5.5,
        markeredgewidth=1.4,
        markerfacecolor=colour if filled else COLOURS["paper"],
        gid=gid,
        clip_on=False,
        zorder=6 if filled else 5,
    )
    interval = kind.interval(mark.spread.low, mark.spread.high)
    shown = f"{kind.written(y)} ({interval})" if interval else kind.written(y)
    sheet.tips[gid] = f"{mark.cell.name}: {shown} at {format_count(mark.x)}"
    at = sheet.display(mark.x, y)
    sheet.obstacles.append(labels.Box(at[0] - 4, at[1] - 4, at[0] + 4, at[1] + 4, 8.0))
    return at


def _crosses(
    sheet: Canvas, cells: Sequence[CellSummary], value: Callable[[CellSummary], float], metric: str
) -> None:
    """Draw cells that are not results as crosses, at the edge where it lies beyond it.

    What diverged is at the top.
    """
    bottom, top = sheet.axes.get_ylim()
    for place, cell in enumerate(cell for cell in cells if cell.standing != "ok"):
        values = [
            run.metrics[metric]
            for run in cell.tested
            if math.isfinite(run.metrics.get(metric, math.inf))
        ]
        left, right = sheet.axes.get_xlim()
        x = max(left, min(right, value(cell)))
        y = max(bottom, min(top, sum(values) / len(values))) if values else top
        sheet.axes.plot(
            [x],
            [y],
            color=COLOURS["muted"],
            gid=f"x{place}",
            marker="x",
            markersize=6.5,
            markeredgewidth=1.5,
            clip_on=False,
            zorder=4,
        )
        sheet.tips[f"x{place}"] = f"{cell.name}: {cell.standing}; {cell.why}"
