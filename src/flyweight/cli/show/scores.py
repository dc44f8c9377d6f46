"""A model's scores on a task in a terminal, beside those of the task's floor."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import Cells, drawn
from flyweight.config.metrics import metric_kind
from flyweight.records.metric import Metric
from flyweight.records.scores import TaskScores
from flyweight.reports.findings.tasks import floor_words, task_notes

COLOURS = {"above": "green", "below": "red", "undecided": "yellow"}
EXAMPLES = 3
"""Answers that are shown below the table."""


def task(values: Mapping[str, object], model: str) -> None:
    """Print a model's scores and its floor's, the verdict between them, and a few answers."""
    scores = TaskScores.from_metrics(values)
    decides, own = metric_kind(scores.decides), scores.metrics[scores.decides]
    reached = f"{decides.title} {own.value:,.{decides.digits}f}"
    where = f"on the {scores.split} split of {scores.task}"
    prose(Text(f"{model}: {reached} {where}", "bold"))
    prose(Text(_capital(floor_words(scores)), COLOURS[scores.standing]), "")
    rows: list[tuple[str, Cells]] = []
    for name in scores.shown:
        kind, floor = metric_kind(name), scores.floor_metrics.get(name)
        title = f"{kind.title} (%)" if kind.unit == "%" else kind.title
        own = scores.metrics[name]
        rows.append(
            (title, (*_with_interval(own, kind.digits), *_with_interval(floor, kind.digits)))
        )
    heads = ("measure", "value", "interval", scores.floor, "its interval")
    say(drawn(heads, rows))
    prose("", *task_notes(scores))
    for answer in scores.answers[:EXAMPLES]:
        say("")
        say(Text(f"{answer.source}", "dim"))
        say(Text(f"answer: {_short(answer.answer)}"))
        say(Text(f"right:  {_short(' | '.join(answer.references))}"))


def _with_interval(metric: Metric | None, digits: int) -> tuple[str, str]:
    if metric is None:
        return "", ""
    return f"{metric.value:,.{digits}f}", f"{metric.low:,.{digits}f} to {metric.high:,.{digits}f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:157]}..."
