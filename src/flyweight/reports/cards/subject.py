"""The model that a card describes, finished or about to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyweight.checkpoints.read import is_checkpoint
from flyweight.config import load, schema
from flyweight.core.files import read_json
from flyweight.errors import FlyweightError
from flyweight.store.artifact import Artifact, Store


@dataclass(frozen=True)
class CardSubject:
    """A model to be described, finished or about to be.

    `parents` are the artifacts that it was made from, by role.
    """

    id: str
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    folder: Path
    parents: Mapping[str, Artifact] = field(default_factory=dict)

    @classmethod
    def of(cls, artifact: Artifact, store: Store) -> CardSubject:
        """Return a finished artifact with those of its parents that are under the runs root."""
        parents = {}
        named = dict[str, str](artifact.identity["parents"])
        if corpus := artifact.facts.get("corpus"):
            # A model made from a trained one was not given its text, but knows it.
            named = {"corpus": corpus, **named}
        for role, name in named.items():
            try:
                parents[role] = Artifact.glance(store.root / name)
            except FlyweightError:
                continue  # gone, or no artifact at all: the card then names it and tells no more
        return cls(artifact.id, artifact.identity, artifact.facts, artifact.path / "model", parents)

    @property
    def stage(self) -> str:
        """The kind of stage that makes it."""
        return self.identity["stage"]

    @property
    def corpus(self) -> Artifact | None:
        """The packed text that it was trained on."""
        return self.parents.get("corpus")

    @property
    def trained(self) -> Mapping[str, Any]:
        """The identity of the training whose weights these are.

        That is the training that `select` chose, else its own.
        """
        if self.stage != "select":
            return self.identity
        same = [
            each
            for each in self.parents.values()
            if each.facts.get("seconds") == self.facts.get("seconds")
        ]
        return same[0].identity if same else self.identity

    def config(self) -> schema.Architecture | None:
        """Return the model's config, or None for a model of another library's."""
        if is_checkpoint(self.folder):
            return None
        where = str(self.folder / "config.json")
        return load.resolved(
            load.model_config(read_json(self.folder / "config.json"), where), where
        )
