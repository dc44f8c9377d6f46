"""What a runs root knows of one model: every measurement of it, the newest of each kind, split and text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.errors import FlyweightError
from flyweight.store.artifact import Artifact, Damaged

MEASUREMENTS = ("evaluate", "bench", "audit", "sample", "floors")
"""Kinds of stages whose artifacts tell of another one, which their identity names as `input`, or as `corpus` for floors."""


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
    """Return the id of what a measurement tells of, or None where it is none."""
    if identity["stage"] not in MEASUREMENTS:
        return None
    return identity["parents"].get("corpus" if identity["stage"] == "floors" else "input")


def of(model: Artifact, entries: Sequence[Artifact | Damaged]) -> Measured:
    """Return what is known of a model among the entries of a runs root, each measurement checked against its manifest.

    A measurement of the same model under another id counts as well: `select` copies what it chose.
    One that is damaged is named and left out.
    """
    files = weights(model)
    artifacts = [entry for entry in entries if isinstance(entry, Artifact)]
    same = {model.id} | {each.id for each in artifacts if files and weights(each) == files}
    damaged = [
        f"{each.path.name} is damaged"
        for each in entries
        if isinstance(each, Damaged) and _measures(each.path)
    ]
    newest: dict[str, dict[Any, Artifact]] = {kind: {} for kind in MEASUREMENTS}
    for found in artifacts:
        if subject(found.identity) in same:
            _keep(found, newest, damaged)
    texts = {each.identity["parents"].get("corpus") for each in newest["evaluate"].values()}
    for found in artifacts:
        if found.stage == "floors" and subject(found.identity) in texts:
            _keep(found, newest, damaged)
    kinds = [tuple(newest[kind].values()) for kind in MEASUREMENTS]
    return Measured(*kinds, damaged=tuple(damaged))


def _keep(found: Artifact, newest: dict[str, dict[Any, Artifact]], damaged: list[str]) -> None:
    config, parents = found.identity["config"], found.identity["parents"]
    of_what = {
        "evaluate": (parents.get("corpus"), config.get("split")),
        "floors": (parents.get("corpus"), config.get("split")),
        "bench": (
            found.identity["device"],
            config.get("batch"),
            config.get("prompt"),
            config.get("new_tokens"),
        ),
        "audit": parents.get("corpus"),
        "sample": tuple(config.get("prompts", ())),
    }[found.stage]
    try:
        checked = Artifact.open(found.path)
    except FlyweightError:
        damaged.append(f"{found.id} is damaged")
        return
    newest[found.stage].pop(of_what, None)
    newest[found.stage][of_what] = checked


def weights(artifact: Artifact) -> dict[str, str]:
    """Return the digests of a model's files: equal for copies under several ids.

    Empty for what is not a model.
    """
    files = artifact.manifest["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith("model/")}


def _measures(path: Path) -> bool:
    return path.name.split("-")[0] in MEASUREMENTS
