"""A finished run as its checks see it: the summary with the artifacts behind its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flyweight.records.run_summary import Summary
from flyweight.store import measurements
from flyweight.store.artifact import Artifact, Store
from flyweight.store.measurements import Measurements


@dataclass(frozen=True)
class ComparedRun:
    """A run's summary, and the artifacts of its models and of their measurements, by model name."""

    summary: Summary
    models: Mapping[str, Artifact] = field(default_factory=dict)
    measured: Mapping[str, Measurements] = field(default_factory=dict)

    @classmethod
    def of(cls, summary: Summary, store: Store) -> ComparedRun:
        """Return a run with what is left of its artifacts in the runs root."""
        entries = store.entries()
        by_id = {entry.id: entry for entry in entries if isinstance(entry, Artifact)}
        models = {each.name: by_id[each.id] for each in summary.models if each.id in by_id}
        measured = {name: measurements.of(model, entries) for name, model in models.items()}
        return cls(summary, models, measured)

    def benches(self) -> Iterator[tuple[str, Artifact]]:
        """Yield each bench of a compared model, with the model's name."""
        for name, measured in self.measured.items():
            for bench in measured.benches:
                yield name, bench

    def reported(self) -> Iterator[tuple[str, Artifact]]:
        """Yield the bench behind each model's speed in the summary."""
        for model in self.summary.models:
            if model.bench is None:
                continue
            for name, bench in self.benches():
                same = bench.metrics()["metrics"]["forward_ms"] == model.bench.forward_ms.json()
                if name == model.name and same:
                    yield name, bench
                    break
