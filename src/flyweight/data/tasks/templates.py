"""The fixed texts that prompts and completions are made of, and the fields that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flyweight.data.tasks.example import TaskKind


@dataclass(frozen=True)
class Template:
    """A task's fixed texts.

    The prompt is `head` and then `tail`; only the head may be cut, from the left. `fields` are
    those of a row; `folder` and `files` say where `--data-dir` has them, `hub` which dataset is
    taken otherwise. They are empty for rows that only a file of the user's holds.
    """

    head: str
    tail: str
    completion: str
    fields: str
    folder: str = ""
    files: str = ""
    hub: str = ""

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return self.head + self.tail


TEMPLATES: Mapping[TaskKind, Template] = {
    "squad": Template(
        head="{context}",
        tail="\n\nQuestion: {question}\nAnswer:",
        completion=" {answer}",
        fields='{"context", "question", "answers": {"text": [...]}}, or the published nested JSON',
        folder="squad",
        files="{train,validation}.{jsonl,json,parquet}",
        hub="rajpurkar/squad",
    ),
    "dialogue": Template(
        head="{turns before the last, joined by line ends}",
        tail="\n",
        completion="{last turn}",
        fields='{"dialog": [...]} or {"utterances": [...]}, or a dialogue a line, turns ended by '
        "__eou__",
        folder="daily-dialog",
        files="{train,validation,test}.{jsonl,json,parquet,txt}",
        hub="li2017dailydialog/daily_dialog",
    ),
    "summarize": Template(
        head="{article}",
        tail="\n\nSummary:",
        completion=" {highlights}",
        fields='{"article", "highlights"}',
        folder="cnn-dailymail",
        files="{train,validation,test}.{jsonl,json,parquet}",
        hub="abisee/cnn_dailymail",
    ),
    "completion": Template(
        head="{prompt}",
        tail="",
        completion="{completion}",
        fields='{"prompt", "completion"}',
    ),
    "messages": Template(
        head="{messages before the last, each as Role: content, joined by line ends}",
        tail="\nAssistant:",
        completion=" {content of the last message}",
        fields='{"messages": [{"role", "content"}, ...]}, the last one by the assistant; a model '
        "with a chat template reads them through that, and learns every answer",
    ),
}
"""Every kind of row with its texts, as `flyweight ls --tasks` prints them."""

TASKS: tuple[TaskKind, ...] = tuple(kind for kind, template in TEMPLATES.items() if template.folder)
"""The tasks that are known by name; every other word is a file or a folder of the user's."""
