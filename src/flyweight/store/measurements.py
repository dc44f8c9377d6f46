"""Find a model's measurements in a runs root: the newest of each kind, split and text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.errors import FlyweightError
from flyweight.store.artifact import Artifact, Damaged

MEASUREMENTS = ("evaluate", "bench", "audit", "sample", "floors")
"""The stages whose artifacts measure another one.

Their identity names that one as `input`; floors name it as `corpus`.
"""


@dataclass(frozen=True)
class Measured:
    """Measurements of one model, newest last; `floors` are those of their texts.

    `damaged` says what could not be read.
    """

    evaluations: tuple[Artifact, ...] = ()
    benches: tuple[Artifact, ...] = ()
    audits: tuple[Artifact, ...] = ()
    samples: tuple[Artifact, ...] = ()
    floors: tuple[Artifact, ...] = ()
    damaged: tuple[str, ...] = ()

    def all(self) -> Iterator[Artifact]:
        """Yield every measurement."""
        for kind in (self.evaluations, self.benches, self.audits, self.samples, self.floors):
            yield from kind


def subject(identity: Mapping[str, Any]) -> str | None:
    """Return the id of the artifact that a measurement measures, or None for other artifacts."""
    if identity["stage"] not in MEASUREMENTS:
        return None
    role = "corpus" if identity["stage"] == "floors" else "input"
    return identity["parents"].get(role)


def of(model: Artifact, entries: Sequence[Artifact | Damaged]) -> Measured:
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
        f"{entry.path.name} is damaged"
        for entry in entries
        if isinstance(entry, Damaged) and _measures(entry.path)
    ]
    newest: dict[str, dict[Any, Artifact]] = {kind: {} for kind in MEASUREMENTS}
    for artifact in artifacts:
        if subject(artifact.identity) in same:
            _keep(artifact, newest, damaged)
    evaluations = newest["evaluate"].values()
    texts = {evaluation.identity["parents"].get("corpus") for evaluation in evaluations}
    for artifact in artifacts:
        if artifact.stage == "floors" and subject(artifact.identity) in texts:
            _keep(artifact, newest, damaged)
    kinds = [tuple(newest[kind].values()) for kind in MEASUREMENTS]
    return Measured(*kinds, damaged=tuple(damaged))


def _keep(
    measurement: Artifact, newest: dict[str, dict[Any, Artifact]], damaged: list[str]
) -> None:
    """Put a measurement in the place of an older one of the same thing; note a damaged one."""
    config, parents = measurement.identity["config"], measurement.identity["parents"]
    conditions = {
        "evaluate": (parents.get("corpus"), config.get("split")),
        "floors": (parents.get("corpus"), config.get("split")),
        "bench": (
            measurement.identity["device"],
            config.get("batch"),
            config.get("prompt"),
            config.get("new_tokens"),
        ),
        "audit": parents.get("corpus"),
        "sample": tuple(config.get("prompts", ())),
    }[measurement.stage]
    try:
        checked = Artifact.open(measurement.path)
    except FlyweightError:
        damaged.append(f"{measurement.id} is damaged")
        return
    newest[measurement.stage].pop(conditions, None)
    newest[measurement.stage][conditions] = checked


def weights(artifact: Artifact) -> dict[str, str]:
    """Return the digests of a model's files by name; {} for an artifact that holds no model.

    They are equal for copies of a model under several ids.
    """
    files = artifact.manifest["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith("model/")}


def _measures(path: Path) -> bool:
    return path.name.split("-")[0] in MEASUREMENTS
