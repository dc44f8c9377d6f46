"""What answers without a model score: a rule that copies part of the prompt.

A model that is not above its task's floor has not learned the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flyweight.data.tasks import TaskKind

# A sentence ends at . ! or ? with closing quotes or brackets behind it, before a space; "U.S. "
# and "Mr. " end none. Line breaks end one as well.
_OPENING, _CLOSING = "\"'\u201c\u2018(\\[", "\"'\u201d\u2019)\\]"
_END = re.compile(rf"(?<=[.!?])[{_CLOSING}]*\s+(?=[{_OPENING}]*[A-Z0-9])|\n+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Gen|Sen|Rep|Gov|Lt|Col|Jr|Sr|vs|No|[A-Z])|\.[A-Za-z])\.$"
)

_ROLE = re.compile(r"^(?:System|User|Assistant): ")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, stripped, without empty ones."""
    parts: list[str] = []
    start = 0
    for end in _END.finditer(text):
        piece = text[start : end.start()]
        if "\n" not in end.group() and _ABBREVIATION.search(piece):
            continue
        # Closing quotes before the space belong to the sentence that ends.
        parts.append(piece + end.group().rstrip())
        start = end.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def first_sentence(prompt: str) -> str:
    """Return the first sentence of a prompt: of a question's context, the context comes first."""
    return next(iter(sentences(prompt)), "")


def lead_3(prompt: str) -> str:
    """Return the first three sentences of a prompt: what a news article begins with sums it up."""
    return " ".join(sentences(prompt)[:3])


def last_turn(prompt: str) -> str:
    """Return the last line of a prompt that has text: the turn that the answer replies to.

    The role that a conversation's line begins with is left out.
    """
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    return _ROLE.sub("", lines[-1]) if lines else ""


@dataclass(frozen=True)
class TaskFloor:
    """A rule that answers a prompt: its name, its words for a table, and the rule itself."""

    name: str
    about: str
    answer: Callable[[str], str]


FLOORS: Mapping[TaskKind, TaskFloor] = {
    "squad": TaskFloor("first_sentence", "the context's first sentence as answer", first_sentence),
    "summarize": TaskFloor("lead_3", "the article's first three sentences as summary", lead_3),
    "dialogue": TaskFloor("last_turn", "the turn before as reply", last_turn),
    "completion": TaskFloor("last_turn", "the prompt's last line as answer", last_turn),
    "messages": TaskFloor("last_turn", "the message before as reply", last_turn),
}
"""The floor of each kind of task."""
