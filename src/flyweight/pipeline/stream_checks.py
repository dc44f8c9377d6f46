"""What a stream does not have is refused before a recipe trains anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.data.corpus import Corpus
from flyweight.data.streams import open_stream
from flyweight.data.streams.held_out import shares
from flyweight.data.streams.order import too_many
from flyweight.errors import RequestError
from flyweight.store.artifact import Artifact
from flyweight.training import streaming


def check_shards(recipe: schema.Recipe, data_dir: Path | None) -> None:
    """Raise RequestError for a stream whose shards cannot be found, or are too small."""
    data = [getattr(stage, "data", None) for stage in recipe.stages.values()]
    streams = [each.stream for each in (*data, recipe.report.data) if isinstance(each, schema.Data)]
    for stream in dict.fromkeys(each.packed() for each in streams if each is not None):
        shares(stream, open_stream(stream, data_dir))


def check_tokens(recipe: schema.Recipe, corpus: Callable[[schema.Data], Artifact]) -> None:
    """Raise RequestError where a stage asks for more tokens than its stream has, or can give.

    `corpus` packs what is packed of a stream. A limit that is known later, or the tokenizer of a
    model that is made later, is checked when the stage begins.
    """
    for name, stage in recipe.stages.items():
        data = getattr(stage, "data", None)
        if not isinstance(stage, schema.TrainingStage) or not isinstance(data, schema.Data):
            continue
        tokens = known_tokens(stage.train, data.context)
        if data.stream is None or tokens is None or data.tokenizer == schema.ModelTokenizer():
            continue
        packed = corpus(data)
        text = Corpus.open(packed.path / "corpus", verify=False)
        known = packed.facts["stream"]
        _check_readable(data.stream, known)
        streaming.check_tokens(data.stream, known, text, tokens, f"stages.{name}")


def _check_readable(stream: Stream, known: Mapping[str, Any]) -> None:
    """Raise RequestError where what was read for the sample has too many bad shards already."""
    bad = known.get("unreadable", ())  # artifacts of earlier versions have none
    if bad and (fault := too_many(stream, len(bad), known["shards"])):
        raise RequestError(f"stream: {fault[0]}; the last: {bad[-1]}. {fault[1]}")


def known_tokens(train: schema.Train, context: int) -> int | None:
    """Return how many tokens a training by steps or tokens reads at most; None for others."""
    steps = train.steps and train.steps * train.batch * context
    return min((count for count in (steps, train.tokens) if count), default=None)
