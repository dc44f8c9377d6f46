"""Figures of a run as inline SVG: the ranking, quality against its costs, training curves.

Quality is bits per byte with its 95 % interval. Models that may not be ranked are drawn as crosses
and take no part in a front. matplotlib takes a second to import, so it is imported where a figure
is drawn.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyweight.config.units import (
    format_bits,
    format_count,
    format_rate,
    format_short_time,
    format_size,
)
from flyweight.records.metric import Metric
from flyweight.records.run_summary import Curve, Training
from flyweight.reports.figures import labels
from flyweight.reports.figures.canvas import (
    NORMAL,
    SMALL,
    WIDTH,
    Canvas,
    canvas,
    decimals,
    draw_floors,
    draw_front,
    name_points,
    scale_x,
    set_ticks,
    ticks,
    vertical,
)
from flyweight.reports.figures.svg import COLOURS, figure_style, inline, series
from flyweight.reports.findings.phrases import and_list, floor_name, short_floor_name
from flyweight.reports.models import ModelGroup, RankedModel
from flyweight.reports.ranking import AXES, Axis

SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p", "*", "h", "<", ">")
# A floor farther from the models than this share of their spread is named at the edge instead of
# squeezing them together.
_REACH = 0.5


@dataclass(frozen=True)
class Drawing:
    """One figure: `svg` for the page, `title` above and `caption` below it, both plain text."""

    key: str
    title: str
    caption: str
    svg: str


def span(group: ModelGroup) -> tuple[float, float]:
    """Return the range of bits per byte of the rankable models, with intervals and near floors."""
    metrics = [each.bits for each in group.rankable if each.bits] or [
        each.bits for each in group.models if each.bits
    ]
    finite = [each for each in metrics if math.isfinite(each.low) and math.isfinite(each.high)]
    if not finite:
        return 0.0, 1.0
    low, high = min(each.low for each in finite), max(each.high for each in finite)
    room = max(high - low, 0.1 * low)
    near = [
        f.bits_per_byte
        for f in group.floors.values()
        if low - _REACH * room <= f.bits_per_byte <= high + _REACH * room
    ]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.08 * max(high - low, room)
    return low - pad, high + pad


# --- quality against its costs ---

_FORMS: dict[str, Callable[[float], str]] = {
    "disk": format_size,
    "speed": format_rate,
    "flops": format_count,
}
_TITLES = {
    "disk": "Quality against bytes on disk",
    "speed": "Quality against generation speed",
    "flops": "Quality against training compute",
}


def quality(group: ModelGroup, prefix: str = "") -> list[Drawing]:
    """Return the figures of quality against bytes, speed and training FLOPs that can be drawn."""
    return [
        drawn
        for axis in AXES.values()
        if (drawn := _scatter(group, axis, f"{prefix}quality-{axis.key}"))
    ]


def _scatter(group: ModelGroup, axis: Axis, key: str) -> Drawing | None:
    """Return one scatter plot, or None where fewer than two models have both numbers."""
    placed = [
        (each, value)
        for each in group.models
        if each.bits and (value := axis.metric(each)) and value.value > 0
    ]
    if len(placed) < 2:
        return None
    form, front = _FORMS[axis.key], axis.front(group.rankable)
    with figure_style():
        sheet = canvas()
        scale_x(sheet.axes, [value.value for _, value in placed], form)
        vertical(sheet, *span(group), "bits per byte, lower is better")
        way = "smaller is better" if axis.better == "lower" else "more is better"
        arrow = "\N{LEFTWARDS ARROW} " if axis.better == "lower" else "\N{RIGHTWARDS ARROW} "
        sheet.text(46, 8, f"{axis.title}  {arrow}{way}", size=NORMAL, color=COLOURS["muted"])
        _front(sheet, axis, front)
        points = [
            _point(sheet, each, value, f"p{index}", each in front, form)
            for index, (each, value) in enumerate(placed)
        ]
        draw_floors(
            sheet,
            ((short_floor_name(key), floor.bits_per_byte) for key, floor in group.floors.items()),
        )
        # Names of the front first: where there is room for some only, these matter.
        order = sorted(range(len(placed)), key=lambda index: placed[index][0] not in front)
        names = [_point_name(placed[index][0], sheet.axes.get_ylim()) for index in order]
        name_points(
            sheet,
            [points[index] for index in order],
            names,
            [series(placed[index][0].colour) for index in order],
        )
        named = and_list([each.label for each in front]) if front else "no model"
        stated = "; ".join(
            f"{each.label} {_bits(each)} at {form(value.value)}" for each, value in placed
        )
        alt = (
            f"Scatter plot of bits per byte against {axis.title}. {stated}. On the Pareto "
            f"front: {named}."
        )
        total = " Total: with every teacher and parent." if axis.key == "flops" else ""
        caption = (
            f"On the front: {named}. Hollow: another is better on one count and not "
            f"significantly worse on the other.{total}"
        )
        return Drawing(key, _TITLES[axis.key], caption, inline(sheet.figure, key, alt, sheet.tips))


def _bits(ranked: RankedModel) -> str:
    return format_bits(ranked.bits.value) if ranked.bits else ""


def _interval(bits: Metric) -> str:
    return f"{format_bits(bits.low)} to {format_bits(bits.high)}"


def _point_name(ranked: RankedModel, span: tuple[float, float]) -> str:
    """Return a model's label.

    One that may not be ranked has its standing, and its quality where that is out of range.
    """
    name = labels.short(ranked.label)
    if ranked.standing == "ok" or ranked.bits is None:
        return name
    value = ranked.bits.value
    if value > span[1]:
        return f"{name} ({ranked.standing} \N{UPWARDS ARROW} {format_bits(value)})"
    if value < span[0]:
        return f"{name} ({ranked.standing} \N{DOWNWARDS ARROW} {format_bits(value)})"
    return f"{name} ({ranked.standing})"


def _front(sheet: Canvas, axis: Axis, front: Sequence[RankedModel]) -> None:
    draw_front(sheet, axis.staircase(front), axis.better)


def _point(
    sheet: Canvas,
    ranked: RankedModel,
    value: Any,
    gid: str,
    filled: bool,
    form: Callable[[float], str],
) -> tuple[float, float]:
    """Draw one model with its intervals and return its place in figure units."""
    assert ranked.bits is not None
    rankable, colour, (bottom, top) = (
        ranked.standing == "ok",
        series(ranked.colour),
        sheet.axes.get_ylim(),
    )
    y = max(min(ranked.bits.value, top), bottom) if math.isfinite(ranked.bits.value) else top
    style = {
        "marker": SHAPES[ranked.shape % len(SHAPES)] if rankable else "x",
        "markersize": 8,
        "markeredgewidth": 1.6,
    }
    if rankable:
        sheet.axes.plot(
            [value.value] * 2, [ranked.bits.low, ranked.bits.high], color=colour, linewidth=1.2
        )
        if value.low < value.high:
            sheet.axes.plot([value.low, value.high], [y, y], color=colour, linewidth=1.2)
        for ends in (
            ((value.value, ranked.bits.low), (value.value, ranked.bits.high)),
            ((value.low, y), (value.high, y)),
        ):
            sheet.obstacles += labels.along([sheet.display(*end) for end in ends], 6.0)
    face = colour if filled else COLOURS["paper"]
    colour = colour if rankable else COLOURS["muted"]
    sheet.axes.plot(
        [value.value],
        [y],
        color=colour,
        markerfacecolor=face,
        gid=gid,
        clip_on=False,
        zorder=6 if filled else 5,
        **style,
    )
    sheet.tips[gid] = (
        f"{ranked.label}: {_bits(ranked)} bits per byte ({_interval(ranked.bits)}) at "
        f"{form(value.value)}"
    )
    return sheet.display(value.value, y)


# --- ranking ---


def ranking(group: ModelGroup, prefix: str = "") -> Drawing | None:
    """Return the models' bits per byte in order, each with its interval, between the floors."""
    ranked = group.rankable
    if not ranked:
        return None
    rows, left = (
        len(ranked),
        14 + max(labels.extent(labels.short(each.label), NORMAL)[0] for each in ranked),
    )
    left, height = min(left, 210.0), 74.0 + 25.0 * rows
    with figure_style():
        sheet = canvas(height=height, left=left, right=50, top=30, bottom=40)
        axes, (low, high) = sheet.axes, span(group)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(low, high)
        axes.set_ylim(rows - 0.4, -0.6)
        marks = ticks(low, high, log=False)
        set_ticks(axes.xaxis, marks, decimals(marks))
        set_ticks(axes.yaxis, [], str)
        axes.grid(axis="x", color=COLOURS["grid"], linewidth=0.8)
        sheet.text(
            4, 8, "bits per byte, lower is better; bars are 95 % intervals", color=COLOURS["muted"]
        )
        _upright_floors(sheet, group)
        for row, each in enumerate(ranked):
            assert each.bits is not None
            colour, gid = series(each.colour), f"r{row}"
            axes.plot(
                [each.bits.low, each.bits.high],
                [row, row],
                color=colour,
                linewidth=9,
                alpha=0.3,
                solid_capstyle="butt",
            )
            shape = SHAPES[each.shape % len(SHAPES)]
            axes.plot(
                [each.bits.value],
                [row],
                color=colour,
                marker=shape,
                markersize=6.5,
                gid=gid,
                clip_on=False,
            )
            y = sheet.display(low, row)[1] - 3.6
            sheet.text(4, y, labels.short(each.label), size=NORMAL)
            sheet.text(WIDTH - 4, y, _bits(each), ha="right", size=NORMAL)
            sheet.tips[gid] = f"{each.label}: {_bits(each)} ({_interval(each.bits)})"
        stated = "; ".join(f"{each.label} {_bits(each)}" for each in ranked)
        floors = ", ".join(
            f"{floor_name(key)} {format_bits(floor.bits_per_byte)}"
            for key, floor in group.floors.items()
        )
        alt = (
            f"Bits per byte of every sound model, best first: {stated}. Floors: {floors or 'none'}."
        )
        svg = inline(sheet.figure, f"{prefix}ranking", alt, sheet.tips)
    return Drawing(f"{prefix}ranking", "Quality", "", svg)


def _upright_floors(sheet: Canvas, group: ModelGroup) -> None:
    """Draw floors as dashed upright lines named above.

    Names that would touch are left to the lines farther off.
    """
    low, high = sheet.axes.get_xlim()
    box, free = sheet.axes.get_window_extent(), -math.inf
    values = sorted(
        (floor.bits_per_byte, short_floor_name(key)) for key, floor in group.floors.items()
    )
    for value, name in values:
        if low <= value <= high:
            sheet.axes.axvline(value, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
            x, half = sheet.display(value, 0)[0], labels.extent(name, SMALL)[0] / 2
            if x - half > free:
                sheet.text(x, box.y1 + 6, name, ha="center", color=COLOURS["muted"])
                free = x + half
    below = [
        f"\N{LEFTWARDS ARROW} {name} {format_bits(value)}" for value, name in values if value < low
    ]
    starts = [
        sheet.display(value, 0)[0] - labels.extent(name, SMALL)[0] / 2
        for value, name in values
        if low <= value <= high
    ]
    if below and 8 + labels.extent(below[-1], SMALL)[0] < min([*starts, WIDTH]):
        sheet.text(4, box.y1 + 6, below[-1], color=COLOURS["muted"])
    beyond = [f"{name} {format_bits(value)}" for value, name in values if value > high]
    if beyond:
        text = f"{beyond[0]} \N{RIGHTWARDS ARROW}"
        if WIDTH - 4 - labels.extent(text, SMALL)[0] > free:
            sheet.text(WIDTH - 4, box.y1 + 6, text, ha="right", color=COLOURS["muted"])


# --- training curves ---

Spent = Literal["flops", "seconds"]

_SPENT: dict[Spent, tuple[str, str, Callable[[float], str]]] = {
    "flops": ("Against training compute", "total training FLOPs", format_count),
    "seconds": ("Against training time", "total training time", format_short_time),
}


def curves(group: ModelGroup, prefix: str = "") -> list[Drawing]:
    """Return validation loss against total FLOPs and seconds.

    Only models with one tokenizer share a figure.
    """
    drawn = []
    prints = dict.fromkeys(
        each.model.evaluate.corpus if each.model.evaluate else "" for each in group.models
    )
    for number, fingerprint in enumerate(prints):
        trained = [
            each
            for each in group.models
            if each.model.curve
            and each.model.training
            and (each.model.evaluate.corpus if each.model.evaluate else "") == fingerprint
        ]
        if any(each.model.curve and len(each.model.curve.validation) > 1 for each in trained):
            drawn += [
                _curves(trained, spent, f"{prefix}curve-{spent}{number or ''}") for spent in _SPENT
            ]
    return drawn


def _curves(trained: Sequence[RankedModel], spent: Spent, key: str) -> Drawing:
    """Draw validation loss with training loss faint behind it.

    Every line starts where its teachers' training ended.
    """
    title, x_title, form = _SPENT[spent]
    with figure_style():
        sheet = canvas()
        lines = [
            (each, _validation(each.model.curve, each.model.training, spent)) for each in trained
        ]
        lines = [(each, line) for each, line in lines if line]
        sheet.axes.set_xlim(0, 1.02 * max(x for _, line in lines for x, _ in line))
        set_ticks(sheet.axes.xaxis, ticks(*sheet.axes.get_xlim(), log=False), form)
        low, high = _loss_range([line for _, line in lines])
        vertical(sheet, low, high, "validation loss, nats per token")
        sheet.text(46, 8, x_title, size=NORMAL, color=COLOURS["muted"])
        corpus = trained[0].summary.corpus_of(trained[0].model)
        for index, (each, line) in enumerate(lines):
            gid, colour = f"c{index}", series(each.colour)
            shape = SHAPES[each.shape % len(SHAPES)]
            faint = _training(each.model.curve, each.model.training, spent)
            sheet.axes.plot(*zip(*faint, strict=True), color=colour, linewidth=0.8, alpha=0.25)
            sheet.axes.plot(
                *zip(*line, strict=True),
                color=colour,
                linewidth=1.6,
                marker=shape,
                markersize=4,
                gid=gid,
            )
            sheet.tips[gid] = (
                f"{each.label}: {format_bits(line[-1][1])} nats per token after {form(line[-1][0])}"
            )
            sheet.obstacles += labels.along(
                [sheet.display(*point) for point in line if low <= point[1] <= high], 8.0, half=2
            )
        floors = corpus.floors if corpus else {}
        draw_floors(sheet, ((short_floor_name(key), floor.nll) for key, floor in floors.items()))
        ends = [sheet.display(*line[-1]) for _, line in lines]
        name_points(
            sheet,
            ends,
            [labels.short(each.label) for each, _ in lines],
            [series(each.colour) for each, _ in lines],
        )
        stated = "; ".join(
            f"{each.label} reaches {format_bits(line[-1][1])} after {form(line[-1][0])}"
            for each, line in lines
        )
        alt = f"Validation loss in nats per token against {x_title}. {stated}."
        return Drawing(key, title, "", inline(sheet.figure, key, alt, sheet.tips))


def _validation(
    curve: Curve | None, training: Training | None, spent: Spent
) -> list[tuple[float, float]]:
    """Return (what had been spent in all, validation NLL) for every finite validation."""
    if curve is None or training is None:
        return []
    before = getattr(training, f"total_{spent}") - getattr(training, spent)
    return [
        (before + getattr(each, spent), each.nll)
        for each in curve.validation
        if math.isfinite(each.nll)
    ]


def _training(
    curve: Curve | None, training: Training | None, spent: Spent
) -> list[tuple[float, float]]:
    """Return the training losses, placed between the validations by their steps."""
    if curve is None or training is None:
        return [(math.nan, math.nan)]
    marks = [(0, 0.0), *((each.step, getattr(each, spent)) for each in curve.validation)]
    before, points = getattr(training, f"total_{spent}") - getattr(training, spent), []
    for step, nll in zip(curve.step, curve.train_nll, strict=True):
        index = min(max(bisect.bisect_left([mark for mark, _ in marks], step), 1), len(marks) - 1)
        (s0, x0), (s1, x1) = marks[index - 1], marks[index]
        points.append((before + x0 + (x1 - x0) * (step - s0) / max(1, s1 - s0), nll))
    return points or [(math.nan, math.nan)]


def _loss_range(lines: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """Return a range that shows how the lines end; the first validation of each may lie outside."""
    low = min(y for line in lines for _, y in line)
    high = max(line[min(1, len(line) - 1)][1] for line in lines)
    pad = 0.08 * max(high - low, 0.05 * abs(low), 1e-6)
    return low - pad, high + 2 * pad
