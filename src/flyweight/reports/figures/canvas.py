"""The sheet that figures are drawn on: axes, round ticks, dashed floors, names that cover nothing.

matplotlib takes a second to import, so it is imported where a figure is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from flyweight.config.units import format_bits
from flyweight.reports.figures import labels
from flyweight.reports.figures.svg import COLOURS
from flyweight.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 400.0, 290.0
SMALL, NORMAL = 10.5, 11.5


@dataclass
class Canvas:
    """A figure in the making: its axes, its obstacles for labels, the tips of its artists."""

    figure: Figure
    axes: Axes
    obstacles: list[labels.Box] = field(default_factory=list)
    tips: dict[str, str] = field(default_factory=dict)

    def display(self, x: float, y: float) -> tuple[float, float]:
        """Return a point of the data in figure units."""
        across, up = self.axes.transData.transform((x, y))
        return float(across), float(up)

    def bounds(self) -> labels.Box:
        """Return the axes' rectangle in figure units, a little wider: labels may touch the edge."""
        box = self.axes.get_window_extent()
        return labels.Box(box.x0 - 4, box.y0 + 1, WIDTH - 2, box.y1 + 4)

    def text(self, x: float, y: float, text: str, **style: object) -> None:
        """Write at a place in figure units."""
        from matplotlib.transforms import IdentityTransform

        self.axes.text(
            x,
            y,
            visible(text),
            transform=IdentityTransform(),
            clip_on=False,
            **{"size": SMALL, **style},
        )


def canvas(
    width: float = WIDTH,
    height: float = HEIGHT,
    left: float = 46,
    right: float = 14,
    top: float = 36,
    bottom: float = 44,
):
    """Return an empty canvas in units of one CSS pixel at full width.

    Margins are around the axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=5)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
    return Canvas(figure, axes)


# --- ranges and ticks ---


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Return three to seven round numbers within a range."""
    if not log:
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step = next(
            step * factor
            for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10)
            if (high - low) / (step * factor) <= 6
        )
        return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        marks = [
            factor * 10.0**decade
            for decade in decades
            for factor in factors
            if low <= factor * 10.0**decade <= high
        ]
        if len(marks) <= 6:
            return marks
    return marks[:: math.ceil(len(marks) / 6)]


def scale_x(axes: Axes, values: Sequence[float], form: Callable[[float], str]) -> None:
    """Set the horizontal range around positive values.

    It is logarithmic where they span more than a factor of three.
    """
    low, high = min(values), max(values)
    log = low > 0 and high / low > 3
    if log:
        pad = (high / low) ** 0.12
        low, high = low / pad, high * pad
        axes.set_xscale("log")
    else:
        pad = max(0.18 * (high - low), 0.1 * abs(high), 1e-9)
        low, high = max(low - pad, 0.0), high + pad
    axes.set_xlim(low, high)
    set_ticks(axes.xaxis, ticks(low, high, log), form)


def set_ticks(axis: Any, values: Sequence[float], form: Callable[[float], str]) -> None:
    """Set an axis' ticks and how they are written."""
    axis.set_ticks(values, [form(value) for value in values])
    axis.set_ticks([], minor=True)


def decimals(marks: Sequence[float]) -> Callable[[float], str]:
    """Return a way to write evenly spaced numbers, all with the digits that tell them apart."""
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 2
    return lambda value: f"{value:.{digits}f}"


def vertical(sheet: Canvas, low: float, high: float, title: str) -> None:
    """Set the vertical range, with its title above the axis instead of beside it."""
    sheet.axes.set_ylim(low, high)
    marks = ticks(low, high, log=False)
    set_ticks(sheet.axes.yaxis, marks, decimals(marks))
    box = sheet.axes.get_window_extent()
    sheet.text(4, box.y1 + 14, title, size=NORMAL, color=COLOURS["muted"])


def draw_floors(sheet: Canvas, floors: Iterable[tuple[str, float]]) -> None:
    """Draw floors as dashed lines, named at the end that covers less.

    Those out of range are named at the edge.
    """
    low, high = sheet.axes.get_ylim()
    box = sheet.axes.get_window_extent()
    above, below = [], []
    for name, value in sorted(floors, key=lambda item: item[1]):
        text = f"{name} {format_bits(value)}"
        if not low <= value <= high:
            (above if value > high else below).append(text)
            continue
        sheet.axes.axhline(
            value, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.9
        )
        y, width = sheet.display(sheet.axes.get_xlim()[0], value)[1], labels.extent(text, SMALL)[0]
        sides = {
            "right": labels.Box(box.x1 - width, y + 1, box.x1, y + 13),
            "left": labels.Box(box.x0 + 3, y + 1, box.x0 + 3 + width, y + 13),
        }
        end = min(
            sides, key=lambda side: sum(sides[side].covered(each) for each in sheet.obstacles)
        )
        sheet.text(
            sides[end].right if end == "right" else sides[end].left,
            y + 3.5,
            text,
            ha=end,
            color=COLOURS["muted"],
        )
        sheet.obstacles += [sides[end], *labels.along([(box.x0, y), (box.x1, y)], 2.0)]
    ends = (("\N{UPWARDS ARROW}", above[:2]), ("\N{DOWNWARDS ARROW}", below[-2:]))
    if note := "   ".join(f"{arrow} {', '.join(texts)}" for arrow, texts in ends if texts):
        sheet.text(WIDTH - 4, box.y1 + 14, note, ha="right", color=COLOURS["muted"])


def draw_front(
    sheet: Canvas,
    corners: Sequence[tuple[float, float]],
    better: Literal["lower", "higher"],
    better_y: Literal["lower", "higher"] = "lower",
) -> None:
    """Draw a Pareto front, given in order along x, as a staircase out to the edges of the figure.

    `better` is the direction of x, `better_y` that of y.
    """
    if not corners:
        return
    left, right = sheet.axes.get_xlim()
    bottom, top = sheet.axes.get_ylim()
    edge = top if better_y == "lower" else bottom
    if better == "higher":
        corners, steps = [(left, corners[0][1]), *corners, (corners[-1][0], edge)], "pre"
    else:
        corners, steps = [(corners[0][0], edge), *corners, (right, corners[-1][1])], "post"
    line: list[tuple[float, float]] = [corners[0]]
    for (x0, y0), (x1, y1) in pairwise(corners):
        line += [(x1, y0) if steps == "post" else (x0, y1), (x1, y1)]
    sheet.axes.plot(
        *zip(*line, strict=True),
        color=COLOURS["front"],
        linewidth=1.4,
        alpha=0.55,
        solid_joinstyle="miter",
    )
    sheet.obstacles += labels.along([sheet.display(*corner) for corner in line], 3.0)


def name_points(
    sheet: Canvas,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Write the names of points (figure units), in their colours, where they cover nothing.

    Far ones get a line to theirs.
    """
    sizes = [labels.extent(name, NORMAL) for name in names]
    markers = [labels.Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    places = labels.place(points, sizes, [*markers, *sheet.obstacles], sheet.bounds())
    for (x, y), place, name, colour in zip(points, places, names, colours, strict=True):
        if place is None:
            continue
        box = place.box
        align = _alignment(box, x)
        at = {"left": box.left, "right": box.right, "center": (box.left + box.right) / 2}[align]
        if place.far:
            leader(sheet, (x, y), (at, box.bottom if box.bottom > y else box.top), colour)
        sheet.text(at, box.bottom + 3, name, ha=align, size=NORMAL, color=colour)


def _alignment(box: labels.Box, x: float) -> Literal["left", "right", "center"]:
    """Return how a label is set that lies right of its point, left of it, or over it."""
    if box.left >= x:
        return "left"
    return "right" if box.right <= x else "center"


def leader(
    sheet: Canvas, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    """Draw a thin line from a point to its name (figure units)."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    xs, ys = zip(start, end, strict=True)
    sheet.axes.add_line(
        Line2D(
            xs,
            ys,
            color=colour,
            linewidth=0.7,
            transform=IdentityTransform(),
            clip_on=False,
            zorder=1,
        )
    )
