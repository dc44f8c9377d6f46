"""The size of a task: how many rows of tokens its examples fill, about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flyweight.config.schema import ModelTokenizer, TaskData, Tokenizer
from flyweight.data.tasks.files import HubTask, task_rows
from flyweight.data.tasks.folder import TrainedSplit, read_splits
from flyweight.planning.text_size import bytes_per_token

FILLED = 0.97
"""Share of a row's inputs that packed examples fill, about."""


@dataclass(frozen=True)
class TaskSize:
    """The examples of both splits and the bytes of each, in UTF-8."""

    bytes: dict[TrainedSplit, tuple[int, ...]]

    def rows(self, split: TrainedSplit, data: TaskData, tokenizer: Tokenizer | None = None) -> int:
        """Return the rows of a split: one for each example, or about as many as packing makes.

        `tokenizer` is the model's, where its config is known.
        """
        lengths = self.bytes[split]
        if data.packing == "padding":
            return len(lengths)
        per_token = bytes_per_token(tokenizer or ModelTokenizer())
        tokens = sum(min(length / per_token + 1, data.context) for length in lengths)
        return max(1, math.ceil(tokens / data.context / FILLED))


def local_task_size(data: TaskData, data_dir: Path | None) -> TaskSize | None:
    """Return the size of a task on this machine; None where reading it would fetch it.

    Raises RequestError for rows that cannot be used, before any work is done.
    """
    if isinstance(task_rows(data.task, data_dir)[0], HubTask):
        return None
    return _read(data.task, data.bad_rows, data_dir)


@lru_cache(maxsize=16)
def _read(task: str, bad_rows: int, data_dir: Path | None) -> TaskSize:
    splits = read_splits(TaskData(task=task, bad_rows=bad_rows), data_dir)
    return TaskSize(
        {
            name: tuple(
                len(row.prompt.encode()) + len(row.completion.encode()) for row in examples.rows
            )
            for name, examples in splits.items()
        }
    )
