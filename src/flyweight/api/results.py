"""The results of runs and studies as Python objects: numbers, HTML tables, data frames.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.core.notebook import frame, with_interval
from flyweight.pipeline import recipe as recipes
from flyweight.records import run_summary as summary, study_summary
from flyweight.records.metric import Metric
from flyweight.reports.tables import html as html_tables
from flyweight.store.artifact import Artifact

if TYPE_CHECKING:
    import pandas


METRICS = (
    ("evaluate", "bits_per_byte"),
    ("evaluate", "nll"),
    ("evaluate", "perplexity"),
    ("bench", "forward_ms"),
    ("bench", "prefill_tokens_per_s"),
    ("bench", "decode_tokens_per_s"),
    ("bench", "peak_bytes"),
)
"""The columns of a data frame for each model: the measurement, and its metric."""


@dataclass(frozen=True, repr=False)
class Run:
    """A finished recipe: `run["student"]` is a stage's artifact, `run.report` the page.

    `run.summary` has all its numbers, and `list(run)` the names of its stages.
    """

    finished: recipes.Finished
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


def _model_row(model: summary.ModelSummary) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": model.name,
        "stage": model.stage,
        "parameters": model.parameters.unique,
        "disk_bytes": model.disk_bytes,
    }
    for part, name in METRICS:
        metric: Metric | None = getattr(getattr(model, part), name, None)
        ends = (metric.value, metric.low, metric.high) if metric else (None, None, None)
        row |= with_interval(name, *ends)
    training = model.training
    for name in ("steps", "flops", "total_flops", "seconds", "total_seconds"):
        row[f"training_{name}"] = getattr(training, name, None)
    row["audit_passed"] = model.audit.passed if model.audit else None
    row["id"] = model.id
    return row


def _study_rows(study: study_summary.StudySummary) -> Iterator[dict[str, Any]]:
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
