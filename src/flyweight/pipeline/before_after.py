"""Measure a fine-tuning: the base and the tuned model on the same held-out rows and prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flyweight.checkpoints import load_any
from flyweight.config import schema
from flyweight.config.metrics import TASK_METRICS
from flyweight.config.schema import StageConfig
from flyweight.data.corpus import Corpus
from flyweight.data.tasks.files import reported_split
from flyweight.errors import RequestError
from flyweight.evaluation.answers import ROUGE
from flyweight.store.artifact import Artifact

ROWS = 64
"""Rows of a task that both models answer."""

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 12, 32
"""Prompts that are taken of a held-out text, their tokens, and those that follow."""


@dataclass(frozen=True)
class BeforeAfter:
    """The measurements of a fine-tuning, each of the base and of the tuned model.

    `learned` are on what was learned, `forgotten` on the base's own text, `samples` of the same
    prompts, `lm_eval` on tasks of lm-eval. What was not measured is None; `notes` say why where it
    could not be.
    """

    base: Artifact
    learned: tuple[Artifact, Artifact] | None = None
    forgotten: tuple[Artifact, Artifact] | None = None
    samples: tuple[Artifact, Artifact] | None = None
    lm_eval: tuple[Artifact, Artifact] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a report asks of a fine-tuning: its own measurements, and tasks of lm-eval."""

    evaluate: bool = True
    lm_eval: schema.LmEvalTasks | None = None


class Made(Protocol):
    """A finished measurement."""

    artifact: Artifact


Make = Callable[[str, StageConfig, Mapping[str, Artifact]], Made]
"""Makes a stage of a name, with artifacts by field."""


@dataclass
class _Pair:
    """Measures two models in the same way; what one of them cannot do is noted.

    Both read the same windows: those of the model that reads fewer tokens at once.
    """

    make: Make
    names: tuple[str, str]
    models: tuple[Artifact, Artifact]
    notes: list[str] = field(default_factory=list[str])

    def measured(self, config: StageConfig) -> tuple[Artifact, Artifact] | None:
        """Return the measurements of the base and of the tuned model."""
        if isinstance(config, schema.Evaluate | schema.Score):
            config = config.model_copy(update={"window": self._window()})
        try:
            before, after = (
                self.make(name, config, {"input": model}).artifact
                for name, model in zip(self.names, self.models, strict=True)
            )
        except RequestError as error:
            self.notes.append(f"{config.stage} was not measured: {error}")
            return None
        return before, after

    def _window(self) -> int | None:
        """Return the tokens that both read at once, where each would read another number."""
        windows = {load_any.window(load_any.config(model.path / "model")) for model in self.models}
        return min(windows) if len(windows) > 1 else None


def measure(
    make: Make,
    name: str,
    config: schema.Finetune,
    base: Artifact,
    tuned: Artifact,
    data_dir: Path | None,
    asked: Asked,
) -> BeforeAfter:
    """Return the measurements of the fine-tuning `name`, made or found by `make`.

    A task is scored on rows that chose nothing. `data_dir` has local copies of its files.
    """
    pair = _Pair(make, (f"{name}, before", f"{name}, after"), (base, tuned))
    lm_eval = None
    if asked.lm_eval is not None:
        lm_eval = pair.measured(asked.lm_eval.stage(name))
    if not asked.evaluate:
        return BeforeAfter(base, lm_eval=lm_eval, notes=tuple(pair.notes))
    data, samples = config.data, None
    if isinstance(data, schema.TaskData):
        learned = pair.measured(_score(data, data_dir))
    else:
        learned = pair.measured(schema.Evaluate(stage="evaluate", input=name, data=data))
        samples = _samples(pair, name, tuned)
    forgotten = None
    corpus = base.facts.get("corpus")
    if corpus is not None and (
        isinstance(data, schema.TaskData) or corpus != tuned.facts.get("corpus")
    ):
        forgotten = _on_own_text(pair, name, base, str(corpus))
    return BeforeAfter(base, learned, forgotten, samples, lm_eval, tuple(pair.notes))


def _score(data: schema.TaskData, data_dir: Path | None) -> schema.Score:
    rouge = importlib.util.find_spec("rouge_score") is not None
    metrics = tuple(metric for metric in TASK_METRICS if rouge or metric not in ROUGE)
    return schema.Score(
        stage="score",
        input="",
        task=data.task,
        split=reported_split(data.task, data_dir),
        limit=ROWS,
        bad_rows=data.bad_rows,
        metrics=metrics,
    )


def _on_own_text(
    pair: _Pair, name: str, base: Artifact, corpus: str
) -> tuple[Artifact, Artifact] | None:
    folder = base.path.parent / corpus
    if not (folder / "manifest.json").is_file():
        pair.notes.append(
            f"what was forgotten was not measured: {corpus} is not in {folder.parent}"
        )
        return None
    fields = {**Artifact.open(folder).identity["config"], "context": 1}
    text = schema.Data.model_validate(fields, context={"resolved": True})
    return pair.measured(schema.Evaluate(stage="evaluate", input=name, data=text))


def _samples(pair: _Pair, name: str, tuned: Artifact) -> tuple[Artifact, Artifact] | None:
    """Return what both write after beginnings of the held-out text, the most probable each time."""
    packed = tuned.path.parent / str(tuned.facts["corpus"])
    corpus = Corpus.open(packed / "corpus", verify=False)
    tokens = corpus.split("test").tokens
    places = [at * len(tokens) // PROMPTS for at in range(PROMPTS)]
    texts = corpus.tokenizer.decode_batch(
        [[int(token) for token in tokens[at : at + PROMPT_TOKENS]] for at in places]
    )
    prompts = tuple(dict.fromkeys(text for text in texts if text.strip()))
    if not prompts:
        return None
    return pair.measured(
        schema.Sample(
            stage="sample", input=name, prompts=prompts, new_tokens=NEW_TOKENS, temperature=0.0
        )
    )
