"""The stage that turns text into token shards.

Recipes never name it; every stage that needs text asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flyweight.config import schema
from flyweight.data.corpus import Meta
from flyweight.data.document import corpus_label
from flyweight.data.pack import pack
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Stage

_NAMED = 10


class Pack(Stage[schema.Data]):
    """Read, split, tokenize and pack one corpus."""

    version = 3

    def run(
        self, config: schema.Data, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write tokenizer, shards and `meta.json` and return what it took."""

        def progress(what: str, done: float) -> None:
            draft.events.watch("packing", {"what": what, "done": done})

        corpus = pack(config, context.data_dir, draft.path / "corpus", progress)
        for line in _left_out(corpus.meta):
            draft.events.watch("left out", line)
        return {
            "name": corpus_label(config.corpus),
            "vocab_size": corpus.meta.vocab_size,
            "fingerprint": corpus.meta.fingerprint,
            "skipped": corpus.meta.skipped,
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


STAGES: dict[str, Stage[Any]] = {"corpus": Pack()}
