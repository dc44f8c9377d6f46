"""Figures 2 to 4 of DistilQwen3's poster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flyweight.reports.layouts.content import LinkedCell, LinkedFigure, LinkedLine
from flyweight.reports.layouts.distilqwen3.models import MEASURES, compared_names, measured
from flyweight.reports.layouts.distilqwen3.roles import (
    BOTTLENECKS,
    COMPARED,
    STUDENTS,
    TASKS,
    pretrained,
    tuned,
)
from flyweight.reports.layouts.distilqwen3.seeds import loss_over_seeds, seeds_of, slices
from flyweight.reports.layouts.drawing import bar_charts, line_chart
from flyweight.reports.layouts.measured_run import MeasuredRun, perplexity_cell


def figures(run: MeasuredRun) -> Sequence[LinkedFigure]:
    """Return the poster's figures."""
    return [bottlenecks(run), whole_training(run), models(run)]


# --- Figure 2: the bottleneck ---


def bottlenecks(run: MeasuredRun) -> LinkedFigure:
    """Return the training loss with a bottleneck and without, over seeds."""
    lines = [
        _loss_line(run, variant, label, place)
        for place, (variant, label) in enumerate(BOTTLENECKS.items())
    ]
    notes = (
        "Cross-entropy of the next token in training, the mean of a twelfth of the steps, averaged "
        "over seeds; bars from the least seed to the largest.",
        "With as many uses of a layer, equal parameters are equal FLOPs: a narrower MLP has both. "
        "Equal FLOPs with the full MLP are fewer uses of the layer.",
    )
    return LinkedFigure(
        key="figure_2",
        title="Figure 2: training loss with a bottleneck and without",
        x="step",
        y="training loss, nats/token",
        lines=tuple(lines),
        draw=line_chart,
        notes=notes,
    )


def _loss_line(run: MeasuredRun, variant: str, label: str, place: int) -> LinkedLine:
    names = seeds_of(run, variant)
    trainings = [training for name in names if (training := run.trained(name)) is not None]
    if not names or len(trainings) < len(names):
        why = loss_over_seeds(run, variant, lambda losses: losses[0]).missing
        return LinkedLine(label, variant, missing=why)
    steps = [step for step, _ in slices(trainings[0])]
    points = [(step, loss_over_seeds(run, variant, _slice(at))) for at, step in enumerate(steps)]
    return LinkedLine(label, variant, tuple(points), colour=place, shape=place)


def _slice(at: int) -> Callable[[Sequence[float]], float]:
    return lambda losses: losses[at]


# --- Figure 3: pretraining and fine-tuning on one axis ---


def whole_training(run: MeasuredRun) -> LinkedFigure:
    """Return validation perplexity over all steps that a student took, one stage after another."""
    lines = list[LinkedLine]()
    for colour, (student, about) in enumerate(STUDENTS.items()):
        before = pretrained(student)
        lines.append(_part(run, before, f"{about}: pretrained", 0, (colour, 0)))
        start = _steps(run, before)
        lines.append(_part(run, student, f"{about}: distilled", start, (colour, 1)))
        start += _steps(run, student)
        lines += [
            _part(run, tuned(student, task), f"{about}: {task}", start, (colour, 2 + place))
            for place, task in enumerate(TASKS)
        ]
    notes = (
        "Each stage begins where the one before it ends. Text while a model is pretrained and "
        "distilled, completions of the task while it is fine-tuned: perplexities of one text only "
        "compare.",
    )
    return LinkedFigure(
        key="figure_3",
        title="Figure 3: validation perplexity in pretraining, distillation and fine-tuning",
        x="steps of all stages",
        y="validation perplexity",
        lines=tuple(lines),
        draw=line_chart,
        notes=notes,
    )


def _steps(run: MeasuredRun, name: str) -> int:
    training = run.trained(name)
    return 0 if training is None else training.cost.steps


def _part(run: MeasuredRun, name: str, label: str, start: int, mark: tuple[int, int]) -> LinkedLine:
    training = run.trained(name)
    if training is None or not training.curve.validation:
        why = run.absent(name) or f"{name} was not validated while it trained"
        return LinkedLine(label, name, missing=why)
    points = [
        (float(start + each.step), perplexity_cell(each.nll, training.artifact))
        for each in training.curve.validation
    ]
    colour, shape = mark
    return LinkedLine(label, name, tuple(points), colour=colour, shape=shape)


# --- Figure 4: models side by side ---


def models(run: MeasuredRun) -> LinkedFigure:
    """Return size, speed and quality of the models of others and of ours."""
    names = compared_names(run)
    lines = []
    for measure in MEASURES:
        cells: list[tuple[float, LinkedCell]] = [
            (float(place), measured(run, name, measure)) for place, name in enumerate(names)
        ]
        lines.append(LinkedLine(MEASURES[measure].title, "", tuple(cells)))
    return LinkedFigure(
        key="figure_4",
        title="Figure 4: models side by side",
        x="model",
        y="; ".join(each.title for each in MEASURES.values()),
        lines=tuple(lines),
        draw=bar_charts,
        categories=tuple(COMPARED[name] for name in names),
        notes=("The numbers are those of the table of models.",),
    )
