"""A text that is read while a model trains, and need not fit on the disk."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from flyweight.config.base import Fraction, PositiveInt, Strict
from flyweight.config.units import Size

HUB = "hf:"

Kept = Annotated[Size, Field(gt=0, le=10**9)]
"""Text that is held in memory while it is packed."""

NOT_IN_THE_RESULT = ("retries", "bad_shards")
"""Fields that decide when a training gives up, and nothing of what it reads."""


NOT_PACKED = ("shuffle", "epochs", *NOT_IN_THE_RESULT)
"""Fields that decide in which order a training reads, and nothing of what is packed before it."""


class Stream(Strict):
    """Shards of documents that are read, cut into tokens and learned on the way.

    `source` is a glob of files of rows (`shards/*.jsonl.gz`, `shards/*.parquet`), a glob of text
    files, each a document, or `hf:owner/name[:config]` at a `revision` of the hub. `text` is the
    column of text. Shards come in an order of their own in every epoch, and each `shuffle`
    documents in a row are shuffled. `epochs` is how often the stream is read at most.

    About `validation` and `test` bytes of documents are held out, and `sample` bytes of the others
    are packed for whatever reads a training text twice: tokenizers, floors, counts, calibration. A
    shard that cannot be read is tried `retries` more times, then skipped. Where more than the share
    `bad_shards` of all would be skipped, the training ends.
    """

    source: Annotated[str, Field(min_length=1)]
    text: Annotated[str, Field(min_length=1)] = "text"
    revision: Annotated[str, Field(min_length=1)] | None = None
    shuffle: PositiveInt = 10_000
    epochs: PositiveInt = 1
    validation: Kept = 2_000_000
    test: Kept = 2_000_000
    sample: Kept = 20_000_000
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    bad_shards: Fraction = 0.01

    @property
    def of_hub(self) -> bool:
        """Whether the shards are those of a hub repository."""
        return self.source.startswith(HUB)

    @model_validator(mode="after")
    def _revision_of_the_hub(self) -> Stream:
        if self.revision is not None and not self.of_hub:
            raise ValueError(
                f"revision: {self.source} are files of this machine, which have none; leave it out"
            )
        return self

    def packed(self) -> Stream:
        """Return what the packed splits depend on."""
        usual = {name: Stream.model_fields[name].default for name in NOT_PACKED}
        return self.model_copy(update=usual)
