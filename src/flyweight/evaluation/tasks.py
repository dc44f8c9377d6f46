"""Score a model on a task: its answers, its metrics with intervals, and the task's floor beside it.

`score_model` is the only way to such a score; the stage `score` writes what it returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from flyweight.checkpoints import load_any
from flyweight.config.metrics import metric_kind
from flyweight.core.files import digest
from flyweight.data.tasks import Example, Examples, TaskKind, read_examples
from flyweight.decode import chat_template
from flyweight.decode.stream import tokenizer_of
from flyweight.errors import RequestError
from flyweight.evaluation import task_answers
from flyweight.evaluation.answers import ROUGE, require_rouge
from flyweight.evaluation.resampling import Ratio, UnitScores, interval, p_value
from flyweight.evaluation.task_answers import CompletionScores
from flyweight.evaluation.task_floors import FLOORS
from flyweight.evaluation.task_scores import (
    answer_metrics,
    contexts_of,
    over_contexts,
    perplexity_metric,
    row_scores,
)
from flyweight.records.difference import Difference
from flyweight.records.scores import Answer, Standing, TaskScores

if TYPE_CHECKING:
    from flyweight.config.scoring import Score

KEPT = 50
"""Answers that an artifact keeps beside its scores."""

SHOWN = 400
"""Characters that are kept of a prompt's end."""

LEVEL = 0.05

PERPLEXITY = "completion_perplexity"


@dataclass(frozen=True)
class TaskRules:
    """What a kind of task asks for, where the user does not say.

    `new_tokens` is the longest answer. `one_line`: an answer is one line, and ends with it. `shown`
    are the metrics that say most, `decides` is the one that is held against the floor.
    """

    new_tokens: int
    one_line: bool
    decides: str
    shown: tuple[str, ...]


RULES: Mapping[TaskKind, TaskRules] = {
    "squad": TaskRules(32, True, "f1", ("exact_match", "f1", PERPLEXITY)),
    "summarize": TaskRules(128, False, "rougeL", (*ROUGE, PERPLEXITY)),
    "dialogue": TaskRules(64, True, "f1", ("f1", "distinct_1", "distinct_2", PERPLEXITY)),
    "completion": TaskRules(64, False, "f1", ("exact_match", "f1", PERPLEXITY)),
    "messages": TaskRules(64, False, "f1", ("f1", "distinct_1", "distinct_2", PERPLEXITY)),
}
"""The rules of each kind of task."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A model's scores on a task, and those of every context, by which models are paired."""

    record: TaskScores
    units: UnitScores


def task_fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of a task's rows, whatever file they came from."""
    return digest([_texts(row) for row in examples])


def _texts(row: Example) -> list[object]:
    texts: list[object] = [row.prompt_head, row.prompt_tail, row.completion, list(row.references)]
    if row.messages:
        texts.append([[message.role, message.content] for message in row.messages])
    return texts


def sampled(rows: Sequence[Example], limit: int | None, seed: int = 0) -> list[Example]:
    """Return `limit` rows in their order, drawn over all contexts; all where that is not more.

    A row is drawn by a hash of the seed and its text: the order of the file has no say, and a
    larger limit holds the rows of a smaller one.
    """
    if limit is None or limit >= len(rows):
        return list(rows)

    def place(at: int) -> bytes:
        text = f"{seed}\0{rows[at].prompt}\0{rows[at].completion}"
        return hashlib.sha256(text.encode()).digest()

    return [rows[at] for at in sorted(sorted(range(len(rows)), key=place)[:limit])]


def check(config: Score, data_dir: Path | None) -> None:
    """Raise RequestError where a task cannot be read, or needs a package that is missing."""
    read_examples(config.task, config.split, data_dir, config.bad_rows)
    if set(ROUGE) & set(config.measured):
        require_rouge()


def score_model(
    folder: Path,
    config: Score,
    data_dir: Path | None,
    device: str,
    progress: Callable[[float], None] | None = None,
    examples: Examples | None = None,
) -> Scored:
    """Return the scores of the model in a folder on a task.

    `config` says which task, split and rows; `examples` are those of `read_examples` where they are
    read already. `progress` hears the share that is done. Raises RequestError for a task without
    files, a model without a tokenizer, prompts that leave no room for an answer, fewer than two
    contexts, and where the rouge-score package is needed and missing.
    """
    if examples is None:
        examples = read_examples(config.task, config.split, data_dir, config.bad_rows)
    rules = RULES[examples.kind]
    metrics = _with_decisive(config.measured, rules.decides)
    if set(ROUGE) & set(metrics):
        require_rouge()
    tokenizer = tokenizer_of(folder)
    model = load_any.load(folder, device)
    window = _window(config, model.config)
    new_tokens = config.new_tokens or min(rules.new_tokens, max(1, window // 2))
    rows = sampled(examples.rows, config.limit, config.sample_seed)
    contexts = _contexts(rows, examples.kind, config.task)
    template = chat_template.of(folder) if examples.kind == "messages" else None
    prompts = task_answers.task_prompts(tokenizer, rows, window, new_tokens, template)
    task_answers.require_rows(tokenizer, prompts, model.config.vocab_size or 0)
    told = progress or (lambda done: None)
    completions = task_answers.completion_scores(
        model,
        prompts,
        batch=config.batch,
        vocab_size=tokenizer.vocab_size,
        progress=lambda done: told(0.1 * done),
    )
    if not completions.tokens.any():
        raise RequestError(
            f"{config.task}: no completion fits into the window of {window} tokens; take a model "
            "with more context"
        )
    texts = task_answers.answers(
        model,
        tokenizer,
        prompts.prompts,
        new_tokens=new_tokens,
        batch=config.batch,
        one_line=rules.one_line or prompts.line_ends,
        progress=lambda done: told(0.1 + 0.9 * done),
    )
    texts = _without_openings(texts, prompts.openings)
    scores = row_scores(texts, [row.references for row in rows], metrics)
    rated = _Rated(examples, rows, contexts, texts, scores, completions, metrics)
    record = rated.record(
        rules, window=window, new_tokens=new_tokens, cut=prompts.cut, task=config.task
    )
    lossy = tokenizer.unknown is not None and any(
        tokenizer.unknown in row.ids[row.prompt :] for row in prompts.rows if row is not None
    )
    return Scored(record, replace(rated.units(record), lossy=lossy))


def _window(config: Score, architecture: load_any.AnyConfig) -> int:
    """Return the tokens that are read at once; refuse more than the model's context."""
    window = config.window or load_any.window(architecture)
    if architecture.context is not None and window > architecture.context:
        raise RequestError(
            f"window: {window} tokens, and the model's context has {architecture.context}"
        )
    return window


def _with_decisive(metrics: Sequence[str], decides: str) -> tuple[str, ...]:
    """Return metrics with one that can be held against a floor: the score of each answer."""
    if _decisive(metrics, decides) in metrics:
        return tuple(metrics)
    return ("f1", *metrics)


def _decisive(metrics: Sequence[str], decides: str) -> str:
    """Return the metric that is held against the floor: the task's own where it is measured."""
    of_rows = [name for name in ("f1", "exact_match", *ROUGE) if name in metrics]
    return decides if decides in metrics else next(iter(of_rows), "f1")


def _contexts(rows: Sequence[Example], kind: TaskKind, task: str) -> np.ndarray:
    """Return which context each row has, (N,); refuse rows that all have the same."""
    contexts = contexts_of(_context(row, kind) for row in rows)
    if int(contexts.max()) < 1:
        raise RequestError(
            f"{task}: the rows that are scored have one context; an interval needs at least two: "
            "raise --limit or add rows"
        )
    return contexts


def _without_openings(texts: Sequence[str], openings: Sequence[str]) -> list[str]:
    """Return answers without the words that their prompts had put into their mouths."""
    return [
        text.removeprefix(opening.strip()).strip()
        for text, opening in zip(texts, openings, strict=True)
    ]


def _context(row: Example, kind: TaskKind) -> object:
    """Return what rows of one context have in common."""
    return row.prompt if kind == "completion" else row.prompt_head


@dataclass(frozen=True, eq=False)
class _Rated:
    """Rows with a model's answers, and everything that was measured of each row."""

    examples: Examples
    rows: Sequence[Example]
    contexts: np.ndarray  # (N,)
    texts: Sequence[str]
    scores: Mapping[str, np.ndarray]  # of each answer, (N,) by metric
    completions: CompletionScores
    metrics: tuple[str, ...]

    def record(
        self, rules: TaskRules, *, window: int, new_tokens: int, cut: int, task: str
    ) -> TaskScores:
        """Return the record: the model's metrics, the floor's, and their paired differences."""
        floor = FLOORS[self.examples.kind]
        floor_texts = [floor.answer(row.prompt_head) for row in self.rows]
        own = self.scores
        others = row_scores(floor_texts, [row.references for row in self.rows], self.metrics)
        measured = answer_metrics(self.texts, own, self.contexts, self.metrics)
        if PERPLEXITY in self.metrics:
            measured[PERPLEXITY] = perplexity_metric(
                self.completions.nll, self.completions.tokens, self.contexts
            )
        changes = {name: over_contexts(own[name] - others[name], self.contexts) for name in own}
        differences = {name: _difference(name, change) for name, change in changes.items()}
        decides = _decisive(self.metrics, rules.decides)
        p = p_value(changes[decides].sums, changes[decides].sizes)
        return TaskScores(
            task=task,
            kind=self.examples.kind,
            split=self.examples.split,
            origin=self.examples.origin,
            division=self.examples.division,
            fingerprint=task_fingerprint(self.rows),
            rows=len(self.rows),
            rows_available=len(self.examples.rows),
            contexts=int(self.contexts.max()) + 1,
            dropped=len(self.examples.dropped),
            cut_prompts=cut,
            unscored=int((self.completions.tokens == 0).sum()),
            window=window,
            new_tokens=new_tokens,
            metrics=measured,
            floor=floor.name,
            floor_about=floor.about,
            floor_metrics=answer_metrics(floor_texts, others, self.contexts, self.metrics),
            above_floor=differences,
            decides=decides,
            p=p,
            standing=_standing(differences[decides], p),
            shown=tuple(name for name in rules.shown if name in measured) or tuple(measured),
            answers=self._answers(floor_texts),
        )

    def _answers(self, floor_texts: Sequence[str]) -> tuple[Answer, ...]:
        """Return the first rows with what was answered."""
        return tuple(
            Answer(
                source=row.source,
                prompt=row.prompt[-SHOWN:],
                answer=self.texts[at],
                floor=floor_texts[at],
                references=row.references,
                scores={name: float(values[at]) for name, values in self.scores.items()},
            )
            for at, row in enumerate(self.rows[:KEPT])
        )

    def units(self, record: TaskScores) -> UnitScores:
        """Return every context's sums, which pair this model with another on the same rows."""
        completions = self.completions
        sizes = np.array([len(row.completion.encode()) for row in self.rows], np.float64)

        def summed(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.contexts, weights=values)

        return UnitScores(
            kind="context",
            nll=summed(completions.nll),
            counts=summed(completions.tokens).astype(np.int64),
            bytes=summed(sizes * (completions.tokens > 0)),
            split=record.split,
            corpus=record.fingerprint,
            marks=summed(completions.marks),
            name=record.task,
            metrics={
                name: over_contexts(values, self.contexts) for name, values in self.scores.items()
            },
        )


def _difference(name: str, change: Ratio) -> Difference:
    kind = metric_kind(name)
    low, high = interval(change.sums, change.sizes)
    return Difference.of(change.value, low, high, kind.unit, kind.better)


def _standing(difference: Difference, p: float) -> Standing:
    """Return whether a model is above its floor; both the interval and p have to say so."""
    if difference.verdict == "undecided" or p >= LEVEL:
        return "undecided"
    return cast(Standing, {"better": "above", "worse": "below"}[difference.verdict])
