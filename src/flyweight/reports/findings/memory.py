"""The memory of a run's trainings: what was planned against what was used."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from flyweight.config.units import format_size
from flyweight.records.run_summary import StageSummary, Summary
from flyweight.records.training_memory import TrainingMemory, format_error
from flyweight.reports.findings.phrases import RunFinding

LISTED = 4
"""Trainings that are named one by one; more of them are summed up."""

KEPT = (
    "Without budget.memory the C library keeps freed blocks for later, so that more is used than "
    "planned; with it they go back at once (ADR 22)."
)

Watched = tuple[StageSummary, TrainingMemory, float]
"""A training, its memory, and the plan's error."""


def noted(summary: Summary) -> bool:
    """Return whether the memory of any training was planned and watched."""
    memories = [stage.memory for stage in summary.stages]
    return any(memory is not None and memory.used is not None for memory in memories)


def watched(summary: Summary) -> list[Watched]:
    """Return the trainings of a run whose memory was planned and watched, as they were planned."""
    return [
        (stage, stage.memory, stage.memory.error)
        for stage in summary.stages
        if stage.memory is not None and stage.memory.error is not None
    ]


def memory_findings(summary: Summary) -> list[RunFinding]:
    """Return the plan's error by training stage, and why it is what it is."""
    return [*_compared(summary), *_halved(summary)]


def _halved(summary: Summary) -> list[RunFinding]:
    """Name the trainings of which other micro-batches ran than were planned."""
    return [
        RunFinding(
            "note",
            f"The memory of `{stage.name}` is not compared with its plan.",
            f"{format_size(memory.planned)} were planned for {memory.asked_pieces} pieces a step. "
            f"Memory ran out, {memory.pieces} were computed, and at most "
            f"{format_size(memory.used)} were used, that moment included.",
        )
        for stage in summary.stages
        if (memory := stage.memory) is not None and memory.halved and memory.used is not None
    ]


def _compared(summary: Summary) -> list[RunFinding]:
    stages = watched(summary)
    if not stages:
        return []
    if len(stages) > LISTED:
        sentence = _summed(stages)
    else:
        sentence = "; ".join(
            f"`{stage.name}` {format_size(memory.planned)} planned, "
            f"{format_size(memory.used or 0)} used ({format_error(error)})"
            for stage, memory, error in stages
        )
    sentence = f"{sentence}."
    on_cpu = summary.environment.device == "cpu"
    if on_cpu and any(not memory.held and error < 0 for _, memory, error in stages):
        sentence = f"{sentence} {KEPT}"
    return [RunFinding("note", "Memory of training, planned against used.", sentence)]


def _summed(stages: Sequence[Watched]) -> str:
    errors = [error for _, _, error in stages]
    low, high = format_error(min(errors)), format_error(max(errors))
    return (
        f"the plan of {len(stages)} trainings was off by {low} to {high}, "
        f"{format_error(median(errors))} in the median"
    )
