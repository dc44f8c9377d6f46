"""Task data: prompts with completions instead of a text; no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from flyweight.config.base import PositiveInt, Strict


class TaskData(Strict):
    """Examples of a task and how they become rows of tokens.

    `task` is `squad`, `dialogue`, `summarize`, a file of rows (JSON lines, JSON, Parquet) or a
    folder with a file for each split. The tokenizer is always that of the model. An example of more
    than `context` tokens loses the beginning of its input (the context, the article, what was said
    before) with `truncate: input`; with `drop` it is left out. `bad_rows` is how many rows may be
    unusable before that is an error. `packing: isolated` puts several examples in a row, which see
    nothing of each other; with `padding` each has a row of its own. Both have the same loss.
    """

    task: Annotated[str, Field(min_length=1)]
    context: PositiveInt = 512
    bad_rows: Annotated[int, Field(ge=0, lt=2**31)] = 0
    truncate: Literal["input", "drop"] = "input"
    packing: Literal["isolated", "padding"] = "isolated"

    union_tag: ClassVar[str] = "examples"
    """How a fault of a config names this kind of data beside texts."""

    @property
    def documents(self) -> Literal["joined", "isolated"]:
        """Whether what shares a row has to be kept apart: examples that are packed do."""
        return "isolated" if self.packing == "isolated" else "joined"

    def encoded(self) -> TaskData:
        """Return what encoding the examples depends on: rows are filled later."""
        return self.model_copy(update={"packing": "isolated"})
