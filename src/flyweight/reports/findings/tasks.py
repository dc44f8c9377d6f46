"""What a model's scores on a task mean, in words: above its floor, or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flyweight.config.metrics import metric_kind
from flyweight.records.scores import TaskComparison, TaskScores
from flyweight.reports.findings.phrases import RunFinding

STANDINGS = {
    "above": "above the floor",
    "below": "below the floor",
    "undecided": "not above the floor",
}
"""How a standing is said."""


def floor_words(scores: TaskScores) -> str:
    """Return in one line whether a model is above its task's floor, with the paired difference."""
    kind, change = metric_kind(scores.decides), scores.above_floor[scores.decides]
    own, floor = scores.metrics[scores.decides], scores.floor_metrics[scores.decides]
    n = kind.digits
    return (
        f"{STANDINGS[scores.standing]}: {kind.title} {own.value:.{n}f} against {floor.value:.{n}f} "
        f"of {scores.floor} ({change.value:+.{n}f}, 95 % interval {change.low:+.{n}f} to "
        f"{change.high:+.{n}f}, p = {scores.p:.2g})"
    )


def task_notes(scores: TaskScores) -> list[str]:
    """Return what one has to know to read a task's numbers."""
    rows = f"{scores.rows:,} rows"
    if scores.rows < scores.rows_available:
        rows = f"{scores.rows:,} of {scores.rows_available:,} rows"
    better = "higher is better"
    if any(metric_kind(name).better == "lower" for name in scores.shown):
        better += " but for perplexity"
    lines = [
        f"{better}; {rows}; 95 % intervals over {scores.contexts:,} contexts; answers of at most "
        f"{scores.new_tokens} tokens; {scores.floor}: {scores.floor_about}",
    ]
    for count, what in (
        (scores.cut_prompts, f"prompts cut at their beginning to {scores.window} tokens"),
        (scores.unscored, f"references left out of the perplexity, over {scores.window} tokens"),
        (scores.dropped, "rows left out because they could not be read"),
    ):
        if count:
            lines.append(f"{what}: {count:,}")
    if scores.division:
        lines.append(scores.division)
    return lines


def best_models(
    scores: Mapping[str, TaskScores], pairs: Sequence[TaskComparison]
) -> tuple[str, ...]:
    """Return the model with the best score, and those that are not significantly worse.

    Empty where fewer than two were compared, and where none of them is worse than the best.
    """
    if len(scores) < 2:
        return ()
    metric = next(iter(scores.values())).decides
    sign = metric_kind(metric).sign
    best = min(scores, key=lambda name: sign * scores[name].metrics[metric].value)
    worse = {pair.a for pair in pairs if pair.b == best and pair.verdict == "worse"}
    worse |= {pair.b for pair in pairs if pair.a == best and pair.verdict == "better"}
    return tuple(name for name in scores if name not in worse) if worse else ()


def task_findings(
    scores: Mapping[str, TaskScores], pairs: Sequence[TaskComparison]
) -> list[RunFinding]:
    """Return what a task says of a run's models: which is best, and which are not above the floor.

    `scores` are those of each model, `pairs` their comparisons.
    """
    first = next(iter(scores.values()))
    title = metric_kind(first.decides).title
    findings: list[RunFinding] = []
    if len(scores) > 1:
        findings.append(_ranked(scores, pairs, title))
    low = [name for name, each in scores.items() if each.standing != "above"]
    if low:
        floor = first.floor_metrics[first.decides].value
        findings.append(
            RunFinding(
                "warning",
                f"{_listed(low)} {'is' if len(low) == 1 else 'are'} not above the floor of "
                f"{first.task}.",
                f"{first.floor} reaches {title} {floor:.{metric_kind(first.decides).digits}f} "
                f"without a model ({first.floor_about}).",
            )
        )
    return findings


def _ranked(
    scores: Mapping[str, TaskScores], pairs: Sequence[TaskComparison], title: str
) -> RunFinding:
    """Return which models are best on a task, and by how much."""
    first = next(iter(scores.values()))
    best = best_models(scores, pairs)
    if not best:
        return RunFinding(
            "undecided",
            f"On {first.task}, no model is better than another by {title}.",
            f"{first.rows:,} rows on {first.contexts:,} contexts leave every difference undecided.",
        )
    n = metric_kind(first.decides).digits
    values = ", ".join(
        f"`{name}` {each.metrics[first.decides].value:.{n}f}" for name, each in scores.items()
    )
    verb = "is best" if len(best) == 1 else "are best, and cannot be told apart,"
    return RunFinding("note", f"On {first.task}, {_listed(best)} {verb} by {title}.", f"{values}.")


def _listed(names: Sequence[str]) -> str:
    """Return names in a sentence: `a`, `b` and `c`."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
