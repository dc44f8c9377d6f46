"""What a stage is: a checked config and finished inputs in, the files of one artifact out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flyweight.config.schema import Strict
from flyweight.core.events import Watcher
from flyweight.core.runtime import Runtime
from flyweight.errors import RequestError
from flyweight.store.artifact import Artifact, Draft, Identity, Store
from flyweight.store.budget import Meter


@dataclass(frozen=True)
class Context:
    """Where a run happens: the same for all of its stages.

    `note` hears the identity of everything that a run needs, before it is made.
    """

    store: Store
    runtime: Runtime
    meter: Meter
    watch: Watcher
    data_dir: Path | None = None
    command: str = ""
    note: Callable[[Identity], None] = lambda _: None


@dataclass(frozen=True)
class Inputs:
    """A stage's finished inputs: artifacts by the field that names them (`input`, `teacher`), and its packed corpus.

    `corpus` is None where a measurement needs no text and the model came without its corpus.
    """

    name: str
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    corpus: Artifact | None = None

    def model(self, role: str) -> Path:
        """Return the model folder of an input; raise RequestError when that artifact holds none."""
        folder = self.artifacts[role].path / "model"
        if not folder.is_dir():
            raise RequestError(f"{self.name}.{role}: {self.artifacts[role].id} holds no model")
        return folder

    def text(self) -> Path:
        """Return the folder of the packed corpus."""
        if self.corpus is None:
            raise RequestError(f"{self.name}: no corpus is known; name a text")
        return self.corpus.path / "corpus"

    def tokenizer_files(self) -> list[Path]:
        """Return the files of the corpus' tokenizer: itself, and what names its special tokens where it does not."""
        files = (self.text() / name for name in ("tokenizer.json", "tokenizer_config.json"))
        return [file for file in files if file.is_file()]

    def spent(self, key: str) -> float:
        """Return what the models that went in had cost in all: `key` is total_flops or total_seconds."""
        return sum(artifact.facts.get(key, 0) for artifact in self.artifacts.values())


class Stage(Protocol):
    """One kind of stage. `version` is part of every id: raise it whenever the same config would give another result.

    `measures` is true for evaluate, bench and audit, whose results belong to a machine; `trains`
    for stages that compute in the configured precision.
    """

    version: int
    measures: bool
    trains: bool

    def run(self, config: Any, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Write the artifact's files into `draft.path` and return its facts."""
        ...


def identity_config(config: Strict) -> dict[str, Any]:
    """Return the part of a stage's config that its result depends on, as plain data.

    Names of other stages are left out (their artifacts' ids stand in the identity), and so is what
    only watches or saves.
    """
    plain = config.model_dump(mode="json", exclude={"teacher", "input", "among", "stage"})
    for name in ("checkpoint", "trackers", "same_as"):
        plain.get("train", {}).pop(name, None)
    data = plain.get("data") or {}
    if data.get("column", "") is None:  # a field of later days: where it is left out, ids stay
        del data["column"]
    return plain
