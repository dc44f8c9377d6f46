"""The verdict of fine-tunings: whether each learned what it was to learn, and what it forgot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flyweight.config.metrics import TASK_METRICS
from flyweight.config.units import format_bits
from flyweight.records.tuning import Change, Tuning
from flyweight.reports.findings.advice import Advice

TITLES = {
    "better": "`{name}` does better on {on} than before: {figures}.",
    "worse": "`{name}` does worse on {on} than before: {figures}.",
    "undecided": "`{name}` is as good on {on} as before, as far as the rows decide: {figures}.",
}
"""What a fine-tuning has done, by the verdict of the paired difference."""


MOST_AT_THE_TOP = 2
"""Fine-tunings whose verdicts stand first; of more, each is told in its own section alone."""


def tuned_advice(records: Sequence[Tuning]) -> list[Advice]:
    """Return a verdict for each fine-tuning that was measured before and after.

    Of many, none stands at the top: they are steps towards the models that are recommended.
    """
    if len(records) > MOST_AT_THE_TOP:
        return []
    return [advice for record in records if (advice := _advice(record)) is not None]


def _advice(record: Tuning) -> Advice | None:
    learned = [change for change in record.changes if change.about == "learned"]
    first = next((change for change in learned if change.difference is not None), None)
    if first is None or first.difference is None:
        return None
    verdict = first.difference.verdict
    title = TITLES[verdict].format(name=record.name, on=first.on, figures=_figures(first))
    notes = (*_others(learned, first), *_forgotten(record))
    return Advice("note" if verdict == "better" else "warning", title, (), notes)


def _others(learned: Sequence[Change], first: Change) -> Iterator[str]:
    """Yield what else was learned, where a paired test says anything of it."""
    for change in learned:
        if change is not first and change.difference is not None:
            yield f"{_figures(change)}: {change.difference.verdict}."


def _forgotten(record: Tuning) -> Iterator[str]:
    for change in record.changes:
        if change.about != "forgotten" or change.difference is None:
            continue
        words = {
            "worse": "It has forgotten some of its own text",
            "better": "It does better on its own text as well",
            "undecided": "It has forgotten nothing of its own text that shows",
        }
        yield f"{words[change.difference.verdict]}, {change.on}: {_figures(change)}."


def _figures(change: Change) -> str:
    """Return a metric before and after: `NLL 4.003 before, 0.032 after`."""
    before, after = change.before.value, change.after.value
    if change.metric == "nll":
        return f"NLL {format_bits(before)} before, {format_bits(after)} after"
    if change.metric not in TASK_METRICS:  # one of lm-eval's own
        return f"{change.metric} {before:.3f} before, {after:.3f} after"
    kind = TASK_METRICS[change.metric]
    return f"{kind.title} {kind.written(before)} before, {kind.written(after)} after"
