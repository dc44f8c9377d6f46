"""Find a model's measurements in a runs root: the newest of each kind, split and text."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flyweight.config.schema import stage_class
from flyweight.errors import FlyweightError
from flyweight.store.artifact import Artifact, Damaged


@dataclass(frozen=True)
class Measurements:
    """Measurements of one model, newest last.

    `floors` are those of their texts, `tasks` are scores of answers, `others` are made by stages of
    other packages.

    `damaged` says what could not be read.
    """

    evaluations: tuple[Artifact, ...] = ()
    benches: tuple[Artifact, ...] = ()
    audits: tuple[Artifact, ...] = ()
    samples: tuple[Artifact, ...] = ()
    floors: tuple[Artifact, ...] = ()
    tasks: tuple[Artifact, ...] = ()
    others: tuple[Artifact, ...] = ()
    damaged: tuple[str, ...] = ()

    def all(self) -> Iterator[Artifact]:
        """Yield every measurement."""
        yield from self.evaluations
        yield from self.benches
        yield from self.audits
        yield from self.samples
        yield from self.floors
        yield from self.tasks
        yield from self.others


def subject(identity: Mapping[str, Any]) -> str | None:
    """Return the id of the artifact that a measurement measures, or None for other artifacts."""
    config = stage_class(identity["stage"])
    if config is None or config.measures is None:
        return None
    return identity["parents"].get(config.measures)


def of(model: Artifact, entries: Sequence[Artifact | Damaged]) -> Measurements:
    """Return a model's measurements among the entries of a runs root, checked by their manifests.

    A measurement of the same model under another id counts as well: `select` copies the model that
    it chose. A damaged measurement is named and left out.
    """
    files = weights(model)
    artifacts = [entry for entry in entries if isinstance(entry, Artifact)]
    same = {model.id}
    if files:
        same |= {artifact.id for artifact in artifacts if weights(artifact) == files}
    damaged = [
        f"{each.path.name} is damaged"
        for each in entries
        if isinstance(each, Damaged) and is_measurement(each.path.name.split("-")[0])
    ]
    newest = _Newest(damaged)
    for artifact in artifacts:
        if subject(artifact.identity) in same:
            newest.add(artifact)
    texts = {each.identity["parents"].get("corpus") for each in newest.of("evaluate")}
    for artifact in artifacts:
        if artifact.stage == "floors" and subject(artifact.identity) in texts:
            newest.add(artifact)
    shipped = ("evaluate", "bench", "audit", "sample", "floors", "score")
    others = [each for stage in newest.stages if stage not in shipped for each in newest.of(stage)]
    kinds = [newest.of(stage) for stage in shipped]
    return Measurements(*kinds, others=tuple(others), damaged=tuple(damaged))


def of_base(
    tuned: Artifact, measured: Measurements, entries: Sequence[Artifact | Damaged]
) -> dict[str, Artifact]:
    """Return the scores of the model that was fine-tuned, by those of the tuned model on its rows.

    Keys are the ids of `measured.tasks`; other models than fine-tuned ones have none.
    """
    base = tuned.identity["parents"].get("input")
    artifacts = {entry.id: entry for entry in entries if isinstance(entry, Artifact)}
    if tuned.stage != "finetune" or not measured.tasks or base not in artifacts:
        return {}
    scores = {_rows(score): score for score in of(artifacts[base], entries).tasks}
    return {task.id: scores[_rows(task)] for task in measured.tasks if _rows(task) in scores}


def _rows(score: Artifact) -> tuple[object, ...]:
    """Return what tells the rows that were answered."""
    metrics = score.metrics()
    return tuple(metrics.get(name) for name in ("fingerprint", "split", "rows"))


@dataclass
class _Newest:
    """The newest measurement of each kind: of those that measure the same, one stays."""

    damaged: list[str]
    stages: dict[str, dict[Hashable, Artifact]] = field(default_factory=dict)

    def add(self, artifact: Artifact) -> None:
        """Keep a measurement in place of an earlier one; remember one that is damaged."""
        config = stage_class(artifact.stage)
        assert config is not None
        try:
            checked = Artifact.open(artifact.path)
        except FlyweightError:
            self.damaged.append(f"{artifact.id} is damaged")
            return
        same = config.same_measurement(artifact.identity)
        of_stage = self.stages.setdefault(artifact.stage, {})
        of_stage.pop(same, None)
        of_stage[same] = checked

    def of(self, stage: str) -> tuple[Artifact, ...]:
        """Return the measurements of a kind, newest last."""
        return tuple(self.stages.get(stage, {}).values())


def weights(artifact: Artifact) -> dict[str, str]:
    """Return the digests of a model's files by name; {} for an artifact that holds no model.

    They are equal for copies of a model under several ids.
    """
    files = artifact.manifest["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith("model/")}


def is_measurement(stage: str) -> bool:
    """Return whether artifacts of a kind of stage tell of another artifact."""
    config = stage_class(stage)
    return config is not None and config.measures is not None
