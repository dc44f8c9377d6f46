"""How the figures of layouts are drawn: bars over names, and lines with intervals and bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flyweight.config.units import format_short
from flyweight.reports.figures import labels
from flyweight.reports.figures.canvas import (
    NORMAL,
    SMALL,
    WIDTH,
    Canvas,
    canvas,
    leader,
    name_points,
    set_ticks,
    ticks,
    vertical,
)
from flyweight.reports.figures.run import SHAPES, Drawing
from flyweight.reports.figures.svg import COLOURS, figure_style, inline, series
from flyweight.reports.layouts.content import LinkedCell, LinkedFigure, LinkedLine
from flyweight.reports.layouts.measured_run import DASH

LEFT = 46
"""Units left of the axes, where the title of x begins."""

BEHIND = 18
"""Units from the end of a line to its name."""

ROW, LEFT_OF_BARS = 38.0, 8.0
"""Units of a bar with its name, and left of bars."""

Point = tuple[float, float]


def bar_charts(figure: LinkedFigure, prefix: str) -> list[Drawing]:
    """Return a chart of bars for each series that has numbers, over the figure's categories."""
    return [
        _bars(figure, line, f"{prefix}{figure.key}-{place}")
        for place, line in enumerate(figure.lines)
        if _finite(line)
    ]


def _bars(figure: LinkedFigure, line: LinkedLine, key: str) -> Drawing:
    """Return a row for each category: its name, and below it a bar with its number behind."""
    finite = {x for x, _ in _finite(line)}
    numbers = [(round(x), cell) for x, cell in line.points if x in finite]
    with figure_style():
        rows = len(figure.categories)
        sheet = canvas(height=ROW * rows + 56, left=LEFT_OF_BARS, bottom=20)
        sheet.axes.set_ylim(rows - 0.5, -0.5)
        highest = max(_number(cell) for _, cell in numbers)
        scale, unit = _scale(highest, numbers[0][1].unit)
        # The numbers have room behind their bars; where all are zero, there still is an axis.
        sheet.axes.set_xlim(0.0, 1.25 * highest / scale or 1.0)
        set_ticks(sheet.axes.xaxis, [], str)
        set_ticks(sheet.axes.yaxis, [], str)
        title = line.label if unit in ("", line.label) else f"{line.label}, {unit}"
        box = sheet.axes.get_window_extent()
        sheet.text(4, box.y1 + 14, title, size=NORMAL, color=COLOURS["muted"])
        for x, name in enumerate(figure.categories):
            across, up = sheet.display(0.0, x - 0.2)
            missing = "" if x in finite else f" {DASH}"
            sheet.text(across + 2, up - 1, f"{labels.short(name, 50)}{missing}")
        for x, cell in numbers:
            length, gid = _number(cell) / scale, f"b{x}"
            (bar,) = sheet.axes.barh([x + 0.2], [length], height=0.36, color=series(0))
            bar.set_gid(gid)
            sheet.tips[gid] = f"{figure.categories[x]}: {cell.text} ({cell.title})"
            across, up = sheet.display(length, x + 0.2)
            sheet.text(across + 4, up - 4, cell.text, size=NORMAL)
        stated = "; ".join(f"{figure.categories[x]} {cell.text}" for x, cell in numbers)
        alt = f"{figure.title}, {line.label}: {stated}."
        return Drawing(key, "", "", inline(sheet.figure, key, alt, sheet.tips))


def _scale(highest: float, unit: str) -> tuple[float, str]:
    """Return what to divide numbers by for an axis, and the unit that results."""
    if unit != "bytes":
        return 1.0, unit
    for factor, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if highest >= factor:
            return factor, name
    return 1.0, unit


def line_chart(figure: LinkedFigure, prefix: str) -> list[Drawing]:
    """Return one chart of all series, with intervals where points have them, and marks dashed."""
    lines = [line for line in figure.lines if _finite(line)]
    if not lines:
        return []
    key = f"{prefix}{figure.key}"
    with figure_style():
        sheet = canvas()
        _ranges(sheet, figure, lines)
        sheet.text(LEFT, 8, figure.x, size=NORMAL, color=COLOURS["muted"])
        for place, line in enumerate(lines):
            _line(sheet, line, f"l{place}")
        _marks(sheet, figure)
        ends = [sheet.display(*_finite(line)[-1]) for line in lines]
        names = [labels.short(line.label) for line in lines]
        colours = [series(line.colour) for line in lines]
        if len({x for x, _ in ends}) == 1:
            _name_behind(sheet, ends, names, colours)
        else:
            name_points(sheet, ends, names, colours)
        stated = "; ".join(_stated(line) for line in lines)
        alt = f"{figure.title}: {figure.y} against {figure.x}. {stated}."
        return [Drawing(key, "", "", inline(sheet.figure, key, alt, sheet.tips))]


def _name_behind(
    sheet: Canvas, ends: Sequence[Point], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Write names behind lines that end side by side, below one another, each led to its line."""
    height = labels.extent("x", NORMAL)[1] + 1
    order = sorted(range(len(ends)), key=lambda place: -ends[place][1])
    middle = sum(y for _, y in ends) / len(ends)
    lowest = sheet.bounds().bottom + height / 2
    top = max(middle + height * (len(ends) - 1) / 2, lowest + height * (len(ends) - 1))
    for row, place in enumerate(order):
        (x, y), up = ends[place], top - row * height
        leader(sheet, (x + 5, y), (x + BEHIND - 3, up), colours[place])
        sheet.text(x + BEHIND, up - 4, names[place], size=NORMAL, color=colours[place])


def _stated(line: LinkedLine) -> str:
    x, cell = line.points[-1]
    return f"{line.label} reaches {cell.text} at {format_short(x)}"


def _number(cell: LinkedCell) -> float:
    assert cell.number is not None
    return cell.number


def _finite(line: LinkedLine) -> list[tuple[float, float]]:
    """Return the points of a series that can be drawn."""
    return [
        (x, cell.number)
        for x, cell in line.points
        if cell.number is not None and math.isfinite(cell.number)
    ]


def _ranges(sheet: Canvas, figure: LinkedFigure, lines: Sequence[LinkedLine]) -> None:
    """Set both ranges: y from what the series end at, as first validations may lie far above.

    The names of the series have room behind their ends.
    """
    xs = [x for line in lines for x, _ in _finite(line)]
    span = max(max(xs) - min(xs), 1e-9 + 0.1 * abs(max(xs)))
    widest = max(labels.extent(labels.short(line.label), NORMAL)[0] for line in lines)
    room = (widest + BEHIND) / (WIDTH - LEFT)
    sheet.axes.set_xlim(min(xs) - 0.06 * span, max(xs) + 1.06 * span * room / (1 - room))
    low, high = min(xs), max(xs)
    marks = ticks(low, high, log=False) if low < high else [low]
    set_ticks(sheet.axes.xaxis, marks, format_short)
    values = [y for line in lines for y in _heights(line)]
    values += [_number(cell) for cell in figure.marks.values() if cell.number is not None]
    spread = max(max(values) - min(values), 0.02 * abs(max(values)), 1e-9)
    vertical(sheet, min(values) - 0.08 * spread, max(values) + 0.12 * spread, figure.y)


def _heights(line: LinkedLine) -> list[float]:
    """Return the heights that have to be seen: all with intervals, else all but the first."""
    shown = [cell for _, cell in line.points if cell.number is not None]
    ends = [end for cell in shown for end in (cell.low, cell.high) if end is not None]
    values = [y for _, y in _finite(line)]
    return [*ends, *values] if ends else values[1:] or values


def _line(sheet: Canvas, line: LinkedLine, gid: str) -> None:
    points, colour = _finite(line), series(line.colour)
    sheet.axes.plot(
        *zip(*points, strict=True),
        color=colour,
        linewidth=1.6,
        marker=SHAPES[line.shape % len(SHAPES)],
        markersize=4.5,
        gid=gid,
    )
    for x, cell in line.points:
        if cell.low is not None and cell.high is not None:
            sheet.axes.plot([x, x], [cell.low, cell.high], color=colour, linewidth=1.2, alpha=0.7)
    sheet.tips[gid] = f"{line.label}: {_stated(line)} ({line.points[-1][1].title})"
    sheet.obstacles += labels.along([sheet.display(*point) for point in points], 8.0, half=2)


def _marks(sheet: Canvas, figure: LinkedFigure) -> None:
    """Draw each mark as a dashed line, named at its left end."""
    left = sheet.axes.get_xlim()[0]
    for name, cell in figure.marks.items():
        if cell.number is None:
            continue
        style = (0, (4, 3))
        sheet.axes.axhline(cell.number, color=COLOURS["muted"], linewidth=0.9, linestyle=style)
        across, up = sheet.display(left, cell.number)
        text = f"{name} {cell.text}"
        sheet.text(across + 3, up + 3.5, text, color=COLOURS["muted"])
        width = labels.extent(text, SMALL)[0]
        sheet.obstacles.append(labels.Box(across, up, across + width, up + 14))
