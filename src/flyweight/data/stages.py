"""The stages that turn text into token shards, and examples into tokens.

Recipes never name them; every stage that needs text or examples asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flyweight.config import schema
from flyweight.config.tasks import TaskData
from flyweight.data.corpus import Meta
from flyweight.data.pack import pack
from flyweight.data.sources import source_of
from flyweight.data.streams.held_out import StreamSample
from flyweight.data.tasks import Examples
from flyweight.data.tasks.conversations import ConversationTemplate
from flyweight.data.tasks.folder import TrainedSplit, write_examples
from flyweight.data.tokenizer import Tokenizer
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Stage

_NAMED = 10


class PackStage(Stage[schema.Data]):
    """Read, split, tokenize and pack one corpus."""

    version = 3

    def run(
        self, config: schema.Data, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write tokenizer, shards and `meta.json` and return what it took."""

        def progress(what: str, done: float) -> None:
            draft.events.watch("packing", {"what": what, "done": done})

        source = source_of(config, context.data_dir)
        corpus = pack(config, context.data_dir, draft.path / "corpus", progress, source=source)
        for line in _left_out(corpus.meta):
            draft.events.watch("left out", line)
        return {
            "name": config.label,
            "vocab_size": corpus.meta.vocab_size,
            "fingerprint": corpus.meta.fingerprint,
            "skipped": corpus.meta.skipped,
            **({"stream": source.facts()} if isinstance(source, StreamSample) else {}),
        }


def _left_out(meta: Meta) -> Iterator[dict[str, str]]:
    """Yield the first documents left out, with the reasons, and how many more there are."""
    for line in meta.left_out[:_NAMED]:
        name, _, reason = line.partition(": ")
        yield {"name": name, "why": reason}
    if meta.skipped > _NAMED:
        yield {
            "name": f"{meta.skipped - _NAMED:,} more",
            "why": f"{meta.skipped:,} documents in all",
        }


CONVERSATION_VERSION = 2
"""Of encoded conversations, all of whose answers are learned."""


@dataclass(frozen=True)
class EncodeStage(Stage[TaskData]):
    """Write the examples of a task as tokens of a model's tokenizer.

    `template` writes conversations; without one they have the fixed text.
    """

    splits: dict[TrainedSplit, Examples]
    tokenizer: Tokenizer
    template: ConversationTemplate | None = None

    version = 1

    def run(
        self, config: TaskData, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write both splits and return what was counted."""
        meta = write_examples(
            config, self.splits, self.tokenizer, draft.path / "examples", self.template
        )
        for remark in meta.remarks():
            draft.events.watch("remark", {"name": config.task, "remark": remark})
        return {
            "name": config.task,
            "kind": meta.kind,
            "vocab_size": meta.vocab_size,
            "rows": {name: split.examples for name, split in meta.splits.items()},
            "cut": {name: split.cut for name, split in meta.splits.items()},
            "dropped": {name: split.dropped for name, split in meta.splits.items()},
            "remarks": list(meta.remarks()),
        }


STAGES: dict[str, Stage[Any]] = {"corpus": PackStage()}
