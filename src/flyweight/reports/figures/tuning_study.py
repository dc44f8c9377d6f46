"""Figures of a study of fine-tuning: score against numbers trained, development loss over seconds.

A colour is a method, a marker a base; the page's tables name them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count, format_time
from flyweight.records.study_summary import Spread
from flyweight.records.tuning_study import StudiedTask, TunedCell, TuningStudySummary
from flyweight.reports.figures import labels
from flyweight.reports.figures.canvas import (
    HEIGHT,
    NORMAL,
    Canvas,
    canvas,
    draw_floors,
    name_points,
    scale_x,
    set_ticks,
    ticks,
    vertical,
)
from flyweight.reports.figures.run import SHAPES, Drawing
from flyweight.reports.figures.study import KEY_ROW, draw_key, key_rows
from flyweight.reports.figures.svg import COLOURS, figure_style, inline, series

NAMED = 6
"""Points that are named at most."""


class TuningStyles:
    """The colour of each method and the marker of each base."""

    def __init__(self, summary: TuningStudySummary) -> None:
        methods = dict.fromkeys(cell.method for cell in summary.cells)
        self.methods = {name: place for place, name in enumerate(methods)}
        self.bases = {base.name: place for place, base in enumerate(summary.bases)}

    def colour(self, cell: TunedCell) -> str:
        """Return the colour of a cell's method."""
        return series(self.methods[cell.method])

    def marker(self, cell: TunedCell) -> str:
        """Return the marker of a cell's base."""
        return SHAPES[self.bases[cell.base] % len(SHAPES)]

    def key(self) -> list[tuple[str, str, str]]:
        """Return what a figure's key says: methods in their colours, then bases."""
        named = [(name, "", series(place)) for name, place in self.methods.items()]
        return named + [
            (name, SHAPES[place % len(SHAPES)], COLOURS["muted"])
            for name, place in self.bases.items()
        ]


def drawings(summary: TuningStudySummary, task: StudiedTask, prefix: str) -> list[Drawing]:
    """Return the figures of one task that can be drawn."""
    cells = [cell for cell in summary.cells if cell.task == task.name]
    drawn = (
        _scores(summary, task, cells, f"{prefix}score"),
        _development(summary, cells, f"{prefix}development"),
        _losses(summary, cells, f"{prefix}loss"),
    )
    return [drawing for drawing in drawn if drawing is not None]


def _sheet(styles: TuningStyles, x_title: str) -> Canvas:
    """Return an empty figure with the key below it."""
    rows = key_rows(styles.key())
    height = KEY_ROW * len(rows) + 4
    sheet = canvas(height=HEIGHT + height, bottom=44 + height)
    draw_key(sheet, rows)
    sheet.text(46, 8 + height, x_title, size=NORMAL, color=COLOURS["muted"])
    return sheet


def _scores(
    summary: TuningStudySummary, task: StudiedTask, cells: Sequence[TunedCell], key: str
) -> Drawing | None:
    """Draw the deciding metric against the numbers that training moves."""
    kind = metric_kind(task.decides)
    lines = [
        (f"{each.base} untouched", each.metrics[task.decides].value)
        for each in summary.untouched
        if each.task == task.name and task.decides in each.metrics
    ]
    if floor := task.floor_metrics.get(task.decides):
        lines.append((task.floor.replace("_", " "), floor.value))
    marks = [(cell, spread) for cell in cells if (spread := cell.spread(task.decides))]
    return _against_trained(
        summary,
        key,
        marks,
        title=f"{kind.title} against numbers trained",
        axis=f"{kind.title}, {kind.better} is better",
        sign=kind.sign,
        lines=lines,
        caption="Bars: 95 % over seeds. Dashed: untouched bases and the task's floor.",
    )


def _development(
    summary: TuningStudySummary, cells: Sequence[TunedCell], key: str
) -> Drawing | None:
    """Draw the development loss at the kept step against the numbers that training moves."""
    return _against_trained(
        summary,
        key,
        [(cell, spread) for cell in cells if (spread := cell.losses("validation_nll"))],
        title="Development loss against numbers trained",
        axis="development loss, nats per completion token",
        sign=1,
        lines=(),
        caption="Bars: 95 % over seeds. A base with another tokenizer has other tokens.",
    )


def _against_trained(
    summary: TuningStudySummary,
    key: str,
    marks: Sequence[tuple[TunedCell, Spread]],
    *,
    title: str,
    axis: str,
    sign: int,
    lines: Sequence[tuple[str, float]],
    caption: str,
) -> Drawing | None:
    """Draw a number of each condition against the numbers that training moves.

    `lines` are dashed, each with its name; `sign` is 1 where lower is better, else -1.
    """
    styles = TuningStyles(summary)
    marks = [
        (cell, spread) for cell, spread in marks if cell.trainable and math.isfinite(spread.mean)
    ]
    if len(marks) < 2:
        return None
    shown = [*(spread.mean for _, spread in marks), *(value for _, value in lines)]
    low, high = min(shown), max(shown)
    pad = 0.1 * max(high - low, 1e-6)
    with figure_style():
        sheet = _sheet(styles, "numbers trained  \N{LEFTWARDS ARROW} fewer is better")
        scale_x(sheet.axes, [float(cell.trainable) for cell, _ in marks], format_count)
        vertical(sheet, low - pad, high + pad, axis)
        for place, (cell, spread) in enumerate(marks):
            gid, colour = f"p{place}", styles.colour(cell)
            if spread.low is not None and spread.high is not None:
                ends = (max(spread.low, low - pad), min(spread.high, high + pad))
                sheet.axes.plot([cell.trainable] * 2, ends, color=colour, linewidth=1.1, alpha=0.6)
            sheet.axes.plot(
                [cell.trainable],
                [spread.mean],
                color=colour,
                marker=styles.marker(cell),
                markersize=6,
                gid=gid,
                zorder=5,
            )
            sheet.tips[gid] = (
                f"{cell.name}: {spread.mean:.3f} with {format_count(cell.trainable)} numbers "
                f"trained"
            )
        draw_floors(sheet, lines)
        best = sorted(marks, key=lambda mark: sign * mark[1].mean)[:NAMED]
        name_points(
            sheet,
            [sheet.display(cell.trainable, spread.mean) for cell, spread in best],
            [labels.short(cell.method) for cell, _ in best],
            [styles.colour(cell) for cell, _ in best],
        )
        stated = "; ".join(f"{cell.name} {spread.mean:.3g}" for cell, spread in marks)
        return Drawing(
            key, title, caption, inline(sheet.figure, key, f"{title}. {stated}.", sheet.tips)
        )


def _losses(summary: TuningStudySummary, cells: Sequence[TunedCell], key: str) -> Drawing | None:
    """Draw the development loss of each condition's first seed against training seconds."""
    styles = TuningStyles(summary)
    lines = [
        (cell, [(each.seconds, each.nll) for each in cell.runs[0].curve if math.isfinite(each.nll)])
        for cell in cells
    ]
    lines = [(cell, line) for cell, line in lines if len(line) > 1]
    if not lines:
        return None
    values = [y for _, line in lines for _, y in line]
    low, high = min(values), sorted(values)[math.ceil(0.95 * len(values)) - 1]
    pad = 0.08 * max(high - low, 1e-6)
    with figure_style():
        sheet = _sheet(styles, "seconds of training")
        sheet.axes.set_xlim(0, 1.02 * max(x for _, line in lines for x, _ in line))
        set_ticks(sheet.axes.xaxis, ticks(*sheet.axes.get_xlim(), log=False), format_time)
        vertical(sheet, low - pad, high + pad, "development loss, nats per completion token")
        for place, (cell, line) in enumerate(lines):
            gid = f"c{place}"
            sheet.axes.plot(
                *zip(*line, strict=True),
                color=styles.colour(cell),
                linewidth=1.4,
                marker=styles.marker(cell),
                markersize=3.5,
                gid=gid,
            )
            sheet.tips[gid] = f"{cell.name}: {line[-1][1]:.3f} after {format_time(line[-1][0])}"
        stated = "; ".join(f"{cell.name} ends at {line[-1][1]:.3f}" for cell, line in lines)
        alt = f"Development loss against seconds of training, first seed. {stated}."
        title = "Development loss over time"
        return Drawing(key, title, "First seed.", inline(sheet.figure, key, alt, sheet.tips))
