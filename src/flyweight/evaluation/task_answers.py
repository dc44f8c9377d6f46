"""What a model makes of a task's prompts: greedy answers, and how probable it finds completions.

Tokens are those of training: a prompt that is too long loses the beginning of its head, and the
question itself is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from flyweight.data.tasks.encode import (
    EncodedExample,
    Refused,
    TooLong,
    completion_end,
    encode_examples,
    encode_prompts,
)
from flyweight.data.tokenizer import Tokenizer, named_tokens
from flyweight.decode.generate import CausalLM, generate
from flyweight.decode.stream import after
from flyweight.errors import RequestError
from flyweight.evaluation.likelihood import token_nll

if TYPE_CHECKING:
    from flyweight.data.tasks import Example
    from flyweight.data.tasks.conversations import ConversationTemplate

Progress = Callable[[float], None]


@dataclass(frozen=True)
class TaskPrompts:
    """A task's rows as one model reads them: to answer, and to be scored on the completions.

    `prompts` have room for an answer after them. `rows` are prompts with their completions, as in
    training; None where a completion is longer than the window. `ends` counts the tokens that end a
    completion; `line_ends` where a line end stands for the separator that the tokenizer lacks.
    `openings` are what a chat template itself writes before each answer; answers are compared
    without them.
    """

    prompts: tuple[tuple[int, ...], ...]
    rows: tuple[EncodedExample | None, ...]
    ends: int
    line_ends: bool
    openings: tuple[str, ...]
    cut: int
    """How many prompts lost their beginning to leave room for an answer."""


def task_prompts(
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    window: int,
    new_tokens: int,
    template: ConversationTemplate | None = None,
) -> TaskPrompts:
    """Return the tokens of examples for answers of `new_tokens` in a window.

    `template` writes conversations as the model's chat has them. Raises RequestError where what
    cannot be cut of a prompt leaves no room for an answer, for text that the tokenizer cannot read,
    and for a conversation that the template refuses.
    """
    end = completion_end(tokenizer)
    prompts: list[tuple[int, ...]] = []
    cut = 0
    for row in encode_prompts(examples, tokenizer, window - new_tokens, template):
        if isinstance(row, Refused):
            raise RequestError(f"{row.source}: {row.reason}; leave such rows out")
        if isinstance(row, TooLong):
            raise RequestError(
                f"{row.source}: the end of its prompt and {new_tokens} new tokens do not fit into "
                f"the window of {window} tokens; leave such rows out, or take a smaller "
                f"--new-tokens or a model with more context"
            )
        prompts.append(row.ids[: row.prompt])
        cut += row.cut > 0
    encoded = encode_examples(examples, tokenizer, window, template=template)
    rows = tuple(row if isinstance(row, EncodedExample) else None for row in encoded)
    openings = tuple("" if row is None else row.opening for row in rows)
    return TaskPrompts(tuple(prompts), rows, len(end.ids), not end.special, openings, cut)


def require_rows(tokenizer: Tokenizer, prompts: TaskPrompts, vocab_size: int) -> None:
    """Raise RequestError, naming them, for tokens that a model with `vocab_size` rows lacks."""
    if tokenizer.vocab_size <= vocab_size:
        return
    used = {token for prompt in prompts.prompts for token in prompt}
    used |= {token for row in prompts.rows if row is not None for token in row.ids}
    missing = {at: text for at, text in tokenizer.rowless(vocab_size).items() if at in used}
    if missing:
        raise RequestError(
            f"the model has {vocab_size} rows and none for {named_tokens(missing)} of the task; "
            f"leave those rows of the task out"
        )


def answers(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    batch: int,
    one_line: bool,
    progress: Progress | None = None,
) -> list[str]:
    """Return the greedy answer to each prompt, stripped.

    It ends before a token that ends texts, at `new_tokens`, or, with `one_line`, where its first
    line with text ends. The prompts are read `batch` at once, those of like length together.
    """
    order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        group = [prompts[at] for at in places]
        lines = _LineEnds(tokenizer)
        continued = generate(
            model,
            group,
            max_new_tokens=new_tokens,
            engine="eager",  # the same answers on every machine
            stop=lines.ended if one_line else None,
            stop_tokens=tokenizer.ends,
            tokens=tokenizer.vocab_size,
        )
        for at, prompt, new in zip(places, group, continued, strict=True):
            texts[at] = _answer(after(tokenizer, prompt, new), one_line)
        if progress is not None:
            progress(min(1.0, (start + batch) / len(order)))
    return texts


class _LineEnds:
    """Tells when a line with text has ended, from each new token alone."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.with_text: set[int] = set()

    def ended(self, row: int, new: list[int]) -> bool:
        """Return whether a row's newest token ends its first line that has text."""
        token = new[-1]
        piece = "\n" if token == self.tokenizer.line_end else self.tokenizer.decode([token])
        *ended, _ = piece.split("\n")
        if ended and (row in self.with_text or any(line.strip() for line in ended)):
            return True
        if piece.strip():
            self.with_text.add(row)
        return False


def _answer(text: str, one_line: bool) -> str:
    whole = text.strip()
    return whole.partition("\n")[0].strip() if one_line else whole


@dataclass(frozen=True, eq=False)
class CompletionScores:
    """How probable completions are, a number for each row (N,); 0 where none was scored.

    `nll` are the summed nats of all of a completion's tokens, `marks` those of its end alone.
    `tokens` counts the tokens of both.
    """

    nll: np.ndarray
    marks: np.ndarray
    tokens: np.ndarray


def completion_scores(
    model: CausalLM,
    prompts: TaskPrompts,
    *,
    batch: int,
    vocab_size: int | None = None,
    progress: Progress | None = None,
) -> CompletionScores:
    """Return the NLL of each completion after its own prompt, teacher forced.

    Rows are padded on the right, where a causal model's real positions cannot see it; padding is
    never scored. The softmax runs over the first `vocab_size` tokens.
    """
    rows, ends = prompts.rows, prompts.ends
    nll, marks = np.zeros(len(rows)), np.zeros(len(rows))
    tokens = np.zeros(len(rows), np.int64)
    placed = [(at, row) for at, row in enumerate(rows) if row is not None]
    placed.sort(key=lambda entry: -len(entry[1].ids))
    with _reading(model):
        for start in range(0, len(placed), batch):
            group = placed[start : start + batch]
            scores = _group_nll(model, [row for _, row in group], vocab_size)
            edge = 0
            for at, row in group:
                part = scores[edge : edge + len(row.ids) - row.prompt]
                edge += len(part)
                nll[at], tokens[at] = part.sum(), len(part)
                marks[at] = part[len(part) - ends :].sum()
            if progress is not None:
                progress(min(1.0, (start + batch) / len(placed)))
    return CompletionScores(nll, marks, tokens)


def _group_nll(
    model: CausalLM, group: Sequence[EncodedExample], vocab_size: int | None
) -> np.ndarray:
    """Return the NLL of all completion tokens of a group of rows, one after another, (n,)."""
    length = max(len(row.ids) - 1 for row in group)
    inputs = np.zeros((len(group), length), np.int64)
    scored = np.zeros((len(group), length), bool)
    for place, row in enumerate(group):
        inputs[place, : len(row.ids) - 1] = row.ids[:-1]
        scored[place, row.prompt - 1 : len(row.ids) - 1] = True
    hidden = model.hidden(torch.from_numpy(inputs).to(model.device))  # (B, T, dim)
    real = torch.from_numpy(scored).to(model.device)
    targets = np.concatenate([row.ids[row.prompt :] for row in group])
    chosen = torch.from_numpy(targets.astype(np.int64)).to(model.device)
    return token_nll(model, hidden[real], chosen, vocab_size)


@contextmanager
def _reading(model: CausalLM) -> Iterator[None]:
    """Switch dropout and gradients off, and dropout back to what it was."""
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
