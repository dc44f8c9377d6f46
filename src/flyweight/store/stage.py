"""What a stage is: a checked config and finished inputs in, the files of one artifact out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from flyweight.config.schema import (
    Architecture,
    StageConfig,
    Strict,
)
from flyweight.config.stream import NOT_IN_THE_RESULT
from flyweight.core.events import Watcher
from flyweight.core.runtime import Runtime
from flyweight.errors import RequestError
from flyweight.store.artifact import NAMED, Artifact, Draft, Identity, Store
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
    """A stage's finished inputs: artifacts by the field that names them, and its packed corpus.

    `corpus` is None where a measurement needs no text and the model came without its corpus, and
    where a training reads `examples` instead. `texts` are the same text in the tokens of inputs
    with tokenizers of their own, by field.
    """

    name: str
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    corpus: Artifact | None = None
    examples: Artifact | None = None
    texts: Mapping[str, Artifact] = field(default_factory=dict)

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

    def encoded(self) -> Path:
        """Return the folder of the text or the examples that a training reads as tokens."""
        return self.text() if self.examples is None else self.examples.path / "examples"

    def vocabulary(self) -> int:
        """Return how many tokens the tokenizer of the text or the examples knows."""
        read = self.corpus if self.examples is None else self.examples
        if read is None:
            raise RequestError(f"{self.name}: no text and no task is known; name one")
        return read.facts["vocab_size"]

    def tokenizer_files(self) -> list[Path]:
        """Return the files of the tokenizer, and of its special tokens' names."""
        files = (self.encoded() / name for name in ("tokenizer.json", "tokenizer_config.json"))
        return [file for file in files if file.is_file()]

    def spent(
        self, key: Literal["total_flops", "total_seconds"], besides: Collection[str] = ()
    ) -> float:
        """Return what the inputs had cost in all, but for some: what several share, once."""
        counted, total = set[str](), 0.0
        for artifact in (each for role, each in self.artifacts.items() if role not in besides):
            before = ancestors(artifact)
            shared = (before[identifier].facts for identifier in before.keys() & counted)
            trained = (facts for facts in shared if "chosen" not in facts)  # a choice repeats facts
            twice = sum(facts.get(key.removeprefix("total_"), 0) for facts in trained)
            total += artifact.facts.get(key, 0) - twice
            counted |= before.keys()
        return total


def ancestors(artifact: Artifact) -> dict[str, Artifact]:
    """Return an artifact and all that it was made from, by id, as far as they are there."""
    found = {artifact.id: artifact}
    new = [artifact]
    while new:
        parents = [name for each in new for name in each.identity["parents"].values()]
        folder = artifact.path.parent
        new = [
            Artifact.glance(folder / name)
            for name in dict.fromkeys(parents)
            if name not in found and NAMED.fullmatch(name) and (folder / name).is_dir()
        ]
        found |= {each.id: each for each in new}
    return found


@dataclass(frozen=True)
class PlannedInputs:
    """What a plan knows before a stage runs: its inputs' models, and the size of their text.

    `models` leaves out what is outside the recipe. `train_tokens` and `validation_tokens` are
    those of the text that the input was trained on; None where nobody has read it. `own_tokens` are
    how many tokens inputs with tokenizers of their own read for one of the stage's text.
    """

    models: Mapping[str, Architecture] = field(default_factory=dict)
    own_tokens: Mapping[str, float] = field(default_factory=dict)
    train_tokens: int | None = None
    validation_tokens: int | None = None


@dataclass(frozen=True)
class Work:
    """Products that a stage computes: tokens that a model reads, and FLOPs beside them."""

    model: Architecture
    tokens: float
    flops: float = 0.0


@dataclass(frozen=True)
class Outline:
    """What a stage will make: its model, where that is known, the seconds it takes, and remarks.

    `seconds` is None where the stage's own trait tells it. `work` takes time beside it, by the
    rates of the machine.
    """

    model: Architecture | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    work: tuple[Work, ...] = ()


C = TypeVar("C", bound=Strict)


class Stage(ABC, Generic[C]):
    """The work of one kind of stage, on configs of class C.

    `version` is part of every id: raise it whenever the same config would give another result.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def run(self, config: C, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Write the artifact's files into `draft.path` and return its facts."""

    def data_fingerprint(self, config: C, data_dir: Path | None) -> str | None:
        """Return the checksum of what the stage reads beside its inputs and its packed corpus.

        It becomes the identity's `data`. By default nothing is read. `data_dir` has local copies.
        """
        return None

    def own_identity(self, config: C) -> Identity | None:
        """Return the identity of a result that depends on no input, seed, thread or device.

        None, as by default, where it depends on them as everything else does.
        """
        return None

    def plan(self, config: C, inputs: PlannedInputs) -> Outline:
        """Return what the stage will make.

        By default a model like that of `input`, in the seconds of the config's trait.
        """
        return Outline(inputs.models.get("input"))


def drops(plain: object, inside: bool = False) -> bool:
    """Return whether a config as plain data has a dropout above 0 anywhere."""
    if isinstance(plain, Mapping):
        return any(drops(value, inside or name == "dropout") for name, value in plain.items())
    if isinstance(plain, list | tuple):
        return any(drops(value, inside) for value in plain)
    return inside and bool(plain)


def identity_config(config: Strict) -> dict[str, Any]:
    """Return the part of a stage's config that its result depends on, as plain data.

    Names of other stages are left out (their artifacts' ids stand in the identity), and so is what
    only watches or saves.
    """
    references = config.references if isinstance(config, StageConfig) else ()
    plain = config.model_dump(mode="json", exclude={*references, "stage"})
    for name in ("checkpoint", "same_as", "on_oom"):
        plain.get("train", {}).pop(name, None)
    if isinstance(config, StageConfig):
        plain |= config.identity_fields()
    data = plain.get("data") or {}
    if data.get("column", "") is None:  # a field of later days: where it is left out, ids stay
        del data["column"]
    for name in NOT_IN_THE_RESULT:
        (data.get("stream") or {}).pop(name, None)
    return plain
