"""A folder of encoded examples: the tokens of both splits, their tokenizer, and facts about them.

examples/
  meta.json  tokenizer.json  train-tokens.bin  train-starts.npy  train-prompts.npy  validation-...

Conversations have train-answers.npy as well.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from flyweight.config.base import Strict
from flyweight.config.tasks import TaskData
from flyweight.core.files import disk_errors, read_json, write_json
from flyweight.data.document import HeldOut
from flyweight.data.shards import dtype_for
from flyweight.data.splitting import split_of
from flyweight.data.tasks.conversations import ConversationTemplate
from flyweight.data.tasks.encode import EncodedExample, TooLong, completion_end, encode_examples
from flyweight.data.tasks.example import DroppedRow, Example, Examples
from flyweight.data.tasks.files import reported_split
from flyweight.data.tasks.reading import IN_DATA, read_examples, too_many
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError, RequestError

TrainedSplit = Literal["train", "validation"]
TRAINED_SPLITS: tuple[TrainedSplit, ...] = ("train", "validation")
"""The splits that a training reads; scores are measured on the text of any split."""

DEVELOPMENT = HeldOut(0.05, 0.0)
"""What is held out of the train split of a task without a test split."""

NAMED = 20
"""The most rows that are named of those left out."""


class SplitFacts(Strict):
    """Counts of one split.

    `tokens` are those of all examples with their begin and end tokens, `completion_tokens` those
    that are learned. `cut` rows lost the beginning of their input, which held every right answer of
    `answers_cut` of them. `apart`: the completion was encoded by itself. `dropped` rows are left
    out; `left_out` names the first of them with the reasons. `division` says how the split was
    taken from rows that came without one. `earlier_answers` are those of conversations that are
    learned beside the last ones.
    """

    examples: int
    tokens: int
    completion_tokens: int
    cut: int
    answers_cut: int
    apart: int
    dropped: int
    left_out: tuple[str, ...]
    division: str
    earlier_answers: int = 0


class ExampleMeta(Strict):
    """Everything known about encoded examples.

    `end` is the text of the token that ends a completion; `end_is_special`: it is the tokenizer's
    separator, and not a line end in its place. `chat_template`: these
    conversations are written by the model's own.
    """

    task: str
    kind: str
    origin: str
    context: int
    vocab_size: int
    end: str
    end_is_special: bool
    chat_template: bool = False
    splits: dict[TrainedSplit, SplitFacts]

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know of how the examples were made, as sentences."""
        if self.kind == "messages":
            yield _conversation_form(self.chat_template)
        if not self.end_is_special:
            yield (
                f"the tokenizer has no separator token: completions end in {self.end!r}, and so "
                f"at their first line end when they are generated"
            )
        for name, split in self.splits.items():
            if split.division and name == "train":
                yield split.division
            if split.cut:
                lost = "the beginning of their input"
                if self.kind == "messages":
                    lost = "their oldest turns"
                if split.answers_cut:
                    lost += f", with the answer in {split.answers_cut:,} of them"
                yield (
                    f"{split.cut:,} of {split.examples:,} {name} examples lost {lost}: "
                    f"a longer data.context holds more, where the model reads one"
                )
            if split.dropped:
                number = "1 row is" if split.dropped == 1 else f"{split.dropped:,} rows are"
                yield f"{number} left out of {name}, first {split.left_out[0]}"


def _conversation_form(templated: bool) -> str:
    if templated:
        return "conversations are written by the model's chat template, as flyweight chat does"
    return (
        "the model has no chat template: conversations are written as User: ... and "
        "Assistant: ..., see flyweight ls --tasks"
    )


@dataclass(frozen=True)
class ExampleSplit:
    """The encoded examples of one split, memory-mapped.

    `tokens` are those of all examples one after another, `starts` (N + 1) where each begins,
    `prompts` (N) how many of its tokens come before the last answer. `answers` (M, 3) are what is
    learned of them in conversations, in order: the example, and an earlier answer's start and stop.
    """

    name: str
    tokens: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray
    answers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def inputs(self) -> np.ndarray:
        """The number of inputs of each example, (N,): the last token is only a target."""
        return np.diff(self.starts) - 1

    def example(self, number: int) -> tuple[np.ndarray, int]:
        """Return an example's ids, int64, and how many of them are the prompt."""
        start, stop = int(self.starts[number]), int(self.starts[number + 1])
        return self.tokens[start:stop].astype(np.int64), int(self.prompts[number])

    def earlier(self, number: int) -> np.ndarray:
        """Return the starts and stops (n, 2) of the earlier answers that an example learns."""
        if self.answers is None:
            return np.zeros((0, 2), np.int64)
        first, last = np.searchsorted(self.answers[:, 0], [number, number + 1])
        return self.answers[first:last, 1:]


@dataclass(frozen=True)
class ExampleFolder:
    """A folder written by `write_examples`."""

    folder: Path
    meta: ExampleMeta

    @classmethod
    def open(cls, folder: Path) -> ExampleFolder:
        """Open a folder; raise FlyweightError where its meta file is missing or damaged."""
        raw = read_json(folder / "meta.json")
        try:
            return cls(folder, ExampleMeta.model_validate(raw))
        except ValidationError as error:
            raise FlyweightError(
                f"{folder / 'meta.json'} is damaged; delete {folder.parent} and run again"
            ) from error

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the tokens come from."""
        return Tokenizer.load(self.folder / "tokenizer.json")

    def split(self, name: TrainedSplit) -> ExampleSplit:
        """Return one split, memory-mapped."""
        dtype = dtype_for(self.meta.vocab_size)
        answers = self.folder / f"{name}-answers.npy"
        return ExampleSplit(
            name,
            np.memmap(self.folder / f"{name}-tokens.bin", dtype, mode="r"),
            np.load(self.folder / f"{name}-starts.npy"),
            np.load(self.folder / f"{name}-prompts.npy"),
            np.load(answers) if answers.is_file() else None,
        )


def read_splits(data: TaskData, data_dir: Path | None = None) -> dict[TrainedSplit, Examples]:
    """Return the examples that are learned, and those that choose the kept step.

    A task without a test split is scored on its validation split, so that rows of the train split
    choose: 5 % of its prompts' beginnings, by their hash. Raises RequestError as `read_examples`
    does.
    """
    if reported_split(data.task, data_dir) == "test":
        return {
            name: read_examples(data.task, name, data_dir, data.bad_rows, IN_DATA)
            for name in TRAINED_SPLITS
        }
    train = read_examples(data.task, "train", data_dir, data.bad_rows, IN_DATA)
    parts: dict[TrainedSplit, list[Example]] = {name: [] for name in TRAINED_SPLITS}
    for row in train.rows:
        parts[
            "train" if split_of(row.prompt_head, DEVELOPMENT) == "train" else "validation"
        ].append(row)
    if not all(parts.values()):
        raise RequestError(
            f"{data.task}: it has no test split, and too few rows ({len(train.rows):,}) "
            f"for choosing a step by some of them; add a test split or more rows"
        )
    division = (
        "it has no test split, so 5 % of the contexts of its train split choose the kept step and "
        "its validation split is scored"
    )
    return {
        name: replace(
            train,
            rows=tuple(rows),
            dropped=train.dropped if name == "train" else (),
            division=division,
        )
        for name, rows in parts.items()
    }


def examples_fingerprint(splits: dict[TrainedSplit, Examples]) -> str:
    """Return the SHA-256 of the texts of all examples and of which split they are in."""
    content = hashlib.sha256()
    for name, examples in splits.items():
        content.update(f"{name} {len(examples.rows)}\n".encode())
        for row in examples.rows:
            texts: list[object] = [
                row.prompt_head,
                row.prompt_tail,
                row.completion,
                row.references,
            ]
            if row.messages:
                texts.append([(message.role, message.content) for message in row.messages])
            content.update(json.dumps(texts).encode())
    return content.hexdigest()


def write_examples(
    data: TaskData,
    splits: dict[TrainedSplit, Examples],
    tokenizer: Tokenizer,
    folder: Path,
    template: ConversationTemplate | None = None,
) -> ExampleMeta:
    """Encode the examples of both splits into the new `folder` and return what was counted.

    `template` is the chat template that writes conversations. Raises RequestError where more rows
    than `data.bad_rows` are unusable or do not fit the context, and where a split keeps none.
    """
    end = completion_end(tokenizer)
    if splits["train"].kind != "messages":
        template = None
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / "tokenizer.json")
    facts: dict[TrainedSplit, SplitFacts] = {
        name: _write_split(data, name, examples, tokenizer, folder, template)
        for name, examples in splits.items()
    }
    train = splits["train"]
    meta = ExampleMeta(
        task=data.task,
        kind=train.kind,
        origin=train.origin,
        context=data.context,
        vocab_size=tokenizer.vocab_size,
        end=end.text,
        end_is_special=end.special,
        chat_template=template is not None,
        splits=facts,
    )
    write_json(folder / "meta.json", meta.model_dump(mode="json"))
    return meta


def _write_split(
    data: TaskData,
    name: TrainedSplit,
    examples: Examples,
    tokenizer: Tokenizer,
    folder: Path,
    template: ConversationTemplate | None,
) -> SplitFacts:
    ids: list[int] = []
    answers: list[tuple[int, int, int]] = []
    starts, prompts = [0], list[int]()
    counts: Counter[str] = Counter()
    dropped = list(examples.dropped)
    too_long = 0
    dtype = dtype_for(tokenizer.vocab_size)
    with disk_errors(folder), open(folder / f"{name}-tokens.bin", "xb") as file:
        for row in encode_examples(
            examples.rows, tokenizer, data.context, data.truncate == "input", template
        ):
            if not isinstance(row, EncodedExample):
                dropped.append(DroppedRow(row.source, row.reason))
                too_long += isinstance(row, TooLong)
                continue
            ids += row.ids
            answers += [(len(prompts), start, stop) for start, stop in row.earlier]
            starts.append(starts[-1] + len(row.ids))
            prompts.append(row.prompt)
            counts.update(_counted(row))
            if len(ids) > 1 << 20:
                file.write(np.asarray(ids, dtype).tobytes())
                ids.clear()
        file.write(np.asarray(ids, dtype).tobytes())
    unusable = len(dropped) - (0 if data.truncate == "input" else too_long)
    if unusable > data.bad_rows:
        rows = len(prompts) + len(dropped)
        advice = "repair them"
        if too_long:
            advice = (
                "shorten them, raise data.context where the model reads more, leave out all that "
                "are too long with data.truncate=drop"
            )
        raise RequestError(too_many(data.task, dropped, rows, data.bad_rows, IN_DATA, advice))
    if not prompts:
        raise RequestError(
            f"{data.task}: none of {too_long:,} {name} examples fits data.context={data.context}; "
            f"raise it, or cut them with data.truncate=input"
        )
    with disk_errors(folder):
        np.save(folder / f"{name}-starts.npy", np.asarray(starts, np.int64))
        np.save(folder / f"{name}-prompts.npy", np.asarray(prompts, np.int64))
        if examples.kind == "messages":
            places = np.asarray(answers, np.int64).reshape(-1, 3)
            np.save(folder / f"{name}-answers.npy", places)
    return SplitFacts(
        examples=len(prompts),
        tokens=starts[-1],
        completion_tokens=starts[-1]
        - sum(prompts)
        + sum(stop - start for _, start, stop in answers),
        cut=counts["cut"],
        answers_cut=counts["answers_cut"],
        apart=counts["apart"],
        dropped=len(dropped),
        left_out=tuple(f"{row.source}: {row.reason}" for row in dropped[:NAMED]),
        division=examples.division,
        earlier_answers=len(answers),
    )


def _counted(row: EncodedExample) -> Iterator[str]:
    if row.cut:
        yield "cut"
    if row.answer_cut:
        yield "answers_cut"
    if row.apart:
        yield "apart"
