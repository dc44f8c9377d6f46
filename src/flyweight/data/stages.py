"""The stage that turns text into token shards; recipes never name it, every stage that needs text asks for it."""

from __future__ import annotations

from typing import Any

from flyweight.config import schema
from flyweight.core.artifact import Draft
from flyweight.core.stage import Context, Inputs, Stage
from flyweight.data.document import corpus_label
from flyweight.data.pack import pack


class Pack:
    """Read, split, tokenize and pack one corpus."""

    version, measures, trains = 2, False, False

    def run(self, config: schema.Data, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Write tokenizer, shards and `meta.json` and return what it took."""

        def progress(what: str, done: float) -> None:
            draft.events.watch("packing", {"what": what, "done": done})

        corpus = pack(config, context.data_dir, draft.path / "corpus", progress)
        return {
            "name": corpus_label(config.corpus),
            "vocab_size": corpus.meta.vocab_size,
            "fingerprint": corpus.meta.fingerprint,
        }


STAGES: dict[str, Stage] = {"corpus": Pack()}
