"""What a task's files give: examples, the rows that were left out, and where both came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskKind = Literal["squad", "dialogue", "summarize", "completion", "messages"]
"""What the rows hold: a published task's fields, a prompt and a completion, or a conversation."""


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A prompt and what is to follow it.

    The prompt is `prompt_head + prompt_tail`. Only the head (the context, the article, what was
    said before) may be cut, from the left. `references` are all answers that count as right, the
    first of them without the space that `completion` begins with. `source` names the row:
    `FILE:LINE`, or `FILE, row N` where a file has no lines. `messages` is the whole conversation,
    of which the other fields are the fixed text; it is empty for rows of another kind.
    """

    prompt_head: str
    prompt_tail: str
    completion: str
    references: tuple[str, ...]
    source: str
    messages: tuple[ChatMessage, ...] = ()

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return self.prompt_head + self.prompt_tail


@dataclass(frozen=True)
class DroppedRow:
    """A row that no example could be made of: `FILE:LINE`, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Examples:
    """One split of a task.

    `rows` are in the order of the files. `dropped` are the rows left out, `bad_rows` at most.
    `origin` names the files or the dataset. `division` says how the split was taken from rows that
    came without one; it is empty where the split has its own file.
    """

    task: str
    kind: TaskKind
    split: str
    rows: tuple[Example, ...]
    dropped: tuple[DroppedRow, ...]
    origin: str
    division: str = ""
