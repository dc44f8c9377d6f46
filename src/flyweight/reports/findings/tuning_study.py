"""The verdict of a study of fine-tuning: which method to use on each task, and where none helps."""

from __future__ import annotations

from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_count, format_short_time
from flyweight.records.tuning_study import StudiedTask, TunedCell, TuningStudySummary
from flyweight.reports.findings.advice import Advice, Choice, Figure
from flyweight.reports.findings.phrases import and_list
from flyweight.reports.tables.tuning_study import best_cells, gain

BEST = "best"
CHEAPEST = "fewest numbers trained of those not significantly worse"


def tuning_advice(summary: TuningStudySummary) -> Advice:
    """Return what a study of fine-tuning says first.

    On each task where a method answers better than no model: the best method, and the one that
    trains fewest numbers among those that are as good. Of other tasks, what the loss says.
    """
    choices: list[Choice] = []
    notes: list[str] = []
    for task in summary.tasks:
        if _above(summary, task):
            choices += _choices(summary, task)
        notes += [_floor_note(summary, task), _loss_note(summary, task)]
    notes = [note for note in notes if note]
    if not choices:
        title = "No method answers better than no model. Only the losses tell the methods apart."
        return Advice("warning", title, (), tuple(notes))
    first = choices[0]
    return Advice("note", f"Use `{first.label}`: {first.line}", tuple(choices), tuple(notes))


def _of_task(summary: TuningStudySummary, task: StudiedTask) -> list[TunedCell]:
    return [cell for cell in summary.cells if cell.task == task.name]


def _above(summary: TuningStudySummary, task: StudiedTask) -> list[TunedCell]:
    """Return the conditions that are above the task's floor with every seed."""
    return [
        cell
        for cell in _of_task(summary, task)
        if all(run.standing == "above" for run in cell.runs)
    ]


def _choices(summary: TuningStudySummary, task: StudiedTask) -> list[Choice]:
    sign = metric_kind(task.decides).sign
    cells = _above(summary, task)
    means = {cell.name: spread.mean for cell in cells if (spread := cell.spread(task.decides))}
    best = min(
        (cell for cell in cells if cell.name in means), key=lambda cell: sign * means[cell.name]
    )
    same_base = [cell for cell in cells if cell.base == best.base]
    tied = best_cells(same_base, task) or same_base
    cheapest = min(tied, key=lambda cell: cell.trainable)
    if cheapest is best:
        return [_choice(summary, task, best, (f"{BEST} on {task.name}", CHEAPEST))]
    return [
        _choice(summary, task, best, (f"{BEST} on {task.name}",)),
        _choice(summary, task, cheapest, (f"{task.name}: {CHEAPEST}",)),
    ]


def _choice(
    summary: TuningStudySummary, task: StudiedTask, cell: TunedCell, roles: tuple[str, ...]
) -> Choice:
    kind, spread = metric_kind(task.decides), cell.spread(task.decides)
    assert spread is not None
    gained = gain(summary, cell)
    score = f"{kind.title} {kind.written(spread.mean)}"
    figures = [
        Figure(task.decides, score, kind.interval(spread.low, spread.high)),
        Figure("trainable", f"{format_count(cell.trainable)} numbers trained"),
        Figure("seconds", f"{format_short_time(cell.seconds)} of training"),
    ]
    if gained is not None:
        sign = "+" if gained.mean >= 0 else ""
        figures.insert(1, Figure("gain", f"{sign}{kind.written(gained.mean)} over the base"))
    return Choice(cell.name, f"{cell.method} on {cell.base}", roles, tuple(figures), "")


def _floor_note(summary: TuningStudySummary, task: StudiedTask) -> str:
    """Return how many conditions of a task are above its floor."""
    cells, above = _of_task(summary, task), _above(summary, task)
    floor = task.floor.replace("_", " ")
    if not above:
        return (
            f"{task.name}: no condition is above the floor ({floor}) with every seed, so no method "
            f"answers better than no model."
        )
    if len(above) == len(cells):
        return f"{task.name}: every condition is above the floor ({floor})."
    methods = and_list([f"`{cell.method} on {cell.base}`" for cell in above[:6]])
    return (
        f"{task.name}: {len(above)} of {len(cells)} conditions are above the floor ({floor}) with "
        f"every seed: {methods}{' and others' if len(above) > 6 else ''}."
    )


def _loss_note(summary: TuningStudySummary, task: StudiedTask) -> str:
    """Return which method has the lowest development loss on each base; empty without any.

    Bases have tokenizers of their own, so that losses compare on one base alone.
    """
    lowest = []
    for base in summary.bases:
        losses = {
            cell.method: spread.mean
            for cell in _of_task(summary, task)
            if cell.base == base.name and (spread := cell.losses("validation_nll"))
        }
        if losses:
            method = min(losses, key=lambda each: losses[each])
            lowest.append(f"`{method} on {base.name}` ({losses[method]:.3f})")
    if not lowest:
        return ""
    return (
        f"{task.name}: the lowest development loss on each base, in nats per completion token, "
        f"has {and_list(lowest)}."
    )
