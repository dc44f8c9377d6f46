"""Every pair of a run's models, compared: on test text, on validation text and on tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flyweight.config import schema
from flyweight.evaluation.compare import comparable_groups, compare_models
from flyweight.evaluation.resampling import UnitScores
from flyweight.records import run_summary
from flyweight.records.scores import TaskComparison, TaskScores
from flyweight.reports import unit_scores
from flyweight.reports.gather import MadeStage, ModelArtifacts, on_tasks


def on_test(sources: Sequence[ModelArtifacts]) -> tuple[run_summary.PairedComparison, ...]:
    """Return every pair of models scored on the same text, with the verdicts of `compare`."""
    return _compared(
        {
            each.name: unit_scores.of(each.measured["evaluate"])
            for each in sources
            if "evaluate" in each.measured
        }
    )


def on_validation(stages: Sequence[MadeStage]) -> tuple[run_summary.PairedComparison, ...]:
    """Return every pair of models that stages of the recipe evaluate on the validation split."""
    units: dict[str, UnitScores] = {}
    for made in stages:
        config = made.config
        if isinstance(config, schema.Evaluate) and config.split == "validation":
            units.setdefault(config.input, unit_scores.of(made.artifact))
    return _compared(units)


def _compared(units: Mapping[str, UnitScores]) -> tuple[run_summary.PairedComparison, ...]:
    """Return every pair of models, by name, that are scored on the same text."""
    pairs = []
    for family in comparable_groups(dict(units)):
        if len(family) < 2:
            continue  # of another text or other units than all others: it has no pair
        stood = compare_models(family)
        for (a, b), pair in stood.pairs.items():
            numbers = {
                **pair.json(),
                "verdict": stood.verdict(a, b),
                "p": pair.p,
                "p_corrected": stood.corrected[a, b],
            }
            pairs.append(
                run_summary.PairedComparison(a=a, b=b, **numbers, comparisons=stood.family)
            )
    return tuple(pairs)


def of_tasks(sources: Sequence[ModelArtifacts]) -> tuple[TaskComparison, ...]:
    """Return every pair of models on the same rows of a task, by the task's own metric."""
    pairs: list[TaskComparison] = []
    for key in dict.fromkeys(key for source in sources for key in on_tasks(source)):
        measured = {each.name: each.measured[key] for each in sources if key in each.measured}
        units = {name: unit_scores.of(artifact) for name, artifact in measured.items()}
        for family in comparable_groups(units):
            if len(family) < 2:
                continue
            record = TaskScores.from_metrics(measured[next(iter(family))].metrics())
            stood = compare_models(family, metric=record.decides)
            for (a, b), pair in stood.pairs.items():
                pairs.append(
                    TaskComparison(
                        task=record.task,
                        split=record.split,
                        fingerprint=record.fingerprint,
                        metric=record.decides,
                        a=a,
                        b=b,
                        difference=pair.decisive,
                        verdict=stood.verdict(a, b),
                        p=1.0 if pair.p is None else pair.p,
                        p_corrected=stood.corrected[a, b],
                        comparisons=stood.family,
                    )
                )
    return tuple(pairs)
