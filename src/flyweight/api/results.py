"""The results of runs and studies as Python objects: numbers, HTML tables, data frames.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flyweight.core.notebook import frame, with_interval
from flyweight.pipeline import recipe as recipes
from flyweight.records import run_summary as summary, study_summary
from flyweight.records.metric import Metric
from flyweight.records.tuning_study import TuningStudySummary
from flyweight.reports.tables import html as html_tables
from flyweight.store.artifact import Artifact

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Run:
    """A finished recipe: `run["student"]` is a stage's artifact, `run.report` the page.

    `run.summary` has all its numbers, and `list(run)` the names of its stages.
    """

    finished: recipes.FinishedRecipe
    summary: summary.Summary
    report: Path
    folder: Path

    def __getitem__(self, stage: str) -> Artifact:
        """Return the artifact of a stage.

        Raises RequestError, with the names of the stages, for another name.
        """
        return self.finished[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self.finished.stages)

    def __len__(self) -> int:
        return len(self.finished.stages)

    def __contains__(self, stage: object) -> bool:
        return stage in self.finished.stages

    def keys(self) -> list[str]:
        """Return the names of the stages, in the order in which they were made."""
        return list(self.finished.stages)

    def values(self) -> list[Artifact]:
        """Return the artifacts of the stages."""
        return [self[stage] for stage in self]

    def items(self) -> list[tuple[str, Artifact]]:
        """Return the stages' names with their artifacts: `dict(run)` works as well."""
        return [(stage, self[stage]) for stage in self]

    def __repr__(self) -> str:
        models = ", ".join(model.name for model in self.summary.models)
        return f"<Run {self.summary.name}: {models}; report: {self.report}>"

    def _repr_html_(self) -> str:
        return html_tables.of_run(self.summary)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each model that was compared.

        Units: bytes, FLOPs, seconds, bits per byte of text, nats per token. `_low` and `_high` are
        the ends of 95 % intervals. Metrics that were not measured are missing. Needs pandas.
        """
        return frame([_model_row(model) for model in self.summary.models], "model")


@dataclass(frozen=True, repr=False)
class StudyRun:
    """A finished study: `study.summary` has its cells and findings, `study.report` is the page."""

    summary: study_summary.StudySummary
    report: Path
    folder: Path

    def __repr__(self) -> str:
        cells, findings = len(self.summary.cells), len(self.summary.findings)
        counts = f"{cells} cell{'s' * (cells != 1)}, {findings} finding{'s' * (findings != 1)}"
        return f"<StudyRun {self.summary.name}: {counts}; report: {self.report}>"

    def _repr_html_(self) -> str:
        return html_tables.of_study(self.summary)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each run of a cell's models: one seed, one rate.

        Units: FLOPs, seconds; metrics are of the test split. Needs pandas.
        """
        return frame(list(_study_rows(self.summary)), "cell")


@dataclass(frozen=True, repr=False)
class TuningStudyRun:
    """A finished study of fine-tuning: `study.summary` has its numbers, `study.report` the page."""

    summary: TuningStudySummary
    report: Path
    folder: Path

    def __repr__(self) -> str:
        cells = len(self.summary.cells)
        return f"<TuningStudyRun {self.summary.name}: {cells} conditions; report: {self.report}>"

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each fine-tuning.

        Units: FLOPs, seconds, bytes; scores are those of the task. Needs pandas.
        """
        return frame(list(_tuning_rows(self.summary)), "condition")


def _tuning_rows(study: TuningStudySummary) -> Iterator[dict[str, object]]:
    for cell in study.cells:
        for run in cell.runs:
            losses = ("train_nll", "validation_nll", "retained_nll")
            yield {
                "condition": cell.name,
                "base": cell.base,
                "method": cell.method,
                "task": cell.task,
                "seed": run.seed,
                "trainable": cell.trainable,
                "adapter_bytes": cell.added_bytes,
                "peak_bytes": cell.peak_bytes,
                "flops": run.flops,
                "seconds": run.seconds,
                **{name: getattr(run, name) for name in losses},
                **run.metrics,
                "id": run.id,
            }


def _model_row(model: summary.ModelSummary) -> dict[str, object]:
    row: dict[str, object] = {
        "model": model.name,
        "stage": model.stage,
        "parameters": model.parameters.unique,
        "disk_bytes": model.disk_bytes,
    }
    quality, speed, training = model.evaluate, model.bench, model.training
    metrics: dict[str, Metric | None] = {
        "bits_per_byte": quality and quality.bits_per_byte,
        "nll": quality and quality.nll,
        "perplexity": quality and quality.perplexity,
        "forward_ms": speed and speed.forward_ms,
        "prefill_tokens_per_s": speed and speed.prefill_tokens_per_s,
        "decode_tokens_per_s": speed and speed.decode_tokens_per_s,
        "peak_bytes": speed and speed.peak_bytes,
    }
    for name, metric in metrics.items():
        ends = (metric.value, metric.low, metric.high) if metric else (None, None, None)
        row |= with_interval(name, *ends)
    row |= {
        "training_steps": training and training.steps,
        "training_flops": training and training.flops,
        "training_total_flops": training.total_flops if training else model.total_flops,
        "training_seconds": training and training.seconds,
        "training_total_seconds": training.total_seconds if training else model.total_seconds,
    }
    row["audit_passed"] = model.audit.passed if model.audit else None
    row["id"] = model.id
    return row


def _study_rows(study: study_summary.StudySummary) -> Iterator[dict[str, object]]:
    for cell in study.cells:
        for run in cell.runs:
            yield {
                "cell": cell.name,
                "model": cell.model,
                **cell.fields,
                "data": cell.data,
                "context": cell.context,
                "budget": cell.budget,
                "parameters": cell.parameters,
                "seed": run.seed,
                "lr": run.lr,
                "chosen": run.chosen,
                "standing": run.standing,
                "steps": run.steps,
                "flops": run.flops,
                "seconds": run.seconds,
                "validation": run.validation,
                **run.metrics,
            }
