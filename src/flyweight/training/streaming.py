"""A training that reads its text on the way: its windows, its facts, and whether it has enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.config.units import format_count
from flyweight.core.events import Events
from flyweight.data.corpus import Corpus
from flyweight.data.streams import open_stream
from flyweight.data.streams.order import StreamEvent, StreamOrder
from flyweight.data.streams.shards import fingerprint
from flyweight.data.streams.tokens import Edges, StreamPlace, TokenStream
from flyweight.data.streams.windows import StreamWindows
from flyweight.errors import FlyweightError, RequestError
from flyweight.store.artifact import Artifact
from flyweight.store.stage import Context

MARGIN = 1.25
"""How many times as many tokens as a stream is estimated to have may be asked for."""


def stream_windows(
    stream: Stream,
    data: schema.Data,
    batch: int,
    packed: Artifact,
    context: Context,
    events: Events,
) -> StreamWindows:
    """Return the windows of a stream whose held-out documents and tokenizer are in `packed`.

    Raises FlyweightError where its shards are others than when that was packed.
    """
    corpus = Corpus.open(packed.path / "corpus", verify=False)
    known = packed.facts["stream"]
    pinned = stream.model_copy(update={"revision": known["revision"]})
    found = open_stream(pinned, context.data_dir)
    if fingerprint(stream.source, stream.text, found) != packed.identity["data"]:
        raise FlyweightError(
            f"data.stream: the shards of {stream.source} changed after {packed.id} was made of "
            "them; run the same command again"
        )
    edges = Edges(corpus.meta.opening, corpus.closing, data.documents == "isolated")
    tokenizer, seed = corpus.tokenizer, context.runtime.seed

    def tokens(rank: int, world: int) -> TokenStream:
        return TokenStream(StreamOrder(stream, found, seed, rank, world), tokenizer, edges)

    tokens(0, 1)  # raises for documents that cannot be told apart

    def tell(event: StreamEvent) -> None:
        events.emit(event.kind, **event.fields)

    return StreamWindows(tokens, data.context, batch, tell)


def stream_facts(place: StreamPlace, waited: float) -> dict[str, Any]:
    """Return what was read up to a place: documents learned to their end, and bytes of their text.

    `data_wait` are the seconds in which the training waited for its text since it was resumed.
    """
    return {
        "documents_read": place.documents,
        "bytes_read": place.bytes,
        "shards_skipped": place.shards_skipped,
        "rows_skipped": place.rows_skipped,
        "data_wait": round(waited, 3),
    }


def check_tokens(
    stream: Stream, known: Mapping[str, Any], corpus: Corpus, tokens: int, where: str
) -> None:
    """Raise RequestError where more tokens are asked for than all readings of a stream have.

    Where its size is an estimate, that has to be clear beyond doubt.
    """
    train = corpus.meta.splits["train"]
    have = known["text_bytes"] * train.tokens / train.bytes * stream.epochs
    if tokens < (have if known["exact"] else MARGIN * have):
        return
    about = "" if known["exact"] else "about "
    times = "is read once" if stream.epochs == 1 else f"is read {stream.epochs} times"
    raise RequestError(
        f"{where}.train: {format_count(tokens)} tokens are asked for, and {stream.source} {times} "
        f"and has {about}{format_count(have)} then; ask for fewer, or read it more often "
        f"(data.stream.epochs={int(stream.epochs * tokens / have) + 1})"
    )
