"""Text as data: tokenizers, and how a text becomes windows of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from flyweight.config.base import PositiveInt, Strict, added, choice
from flyweight.config.stream import Stream
from flyweight.config.units import Count, Size


class ByteTokenizer(Strict):
    """One token per byte of UTF-8: 256 tokens."""

    kind: Literal["byte"] = "byte"


class CharTokenizer(Strict):
    """One token per character of the training text; unseen characters become `<unk>`."""

    kind: Literal["char"] = "char"


class WordTokenizer(Strict):
    """The training text's own words, split at white space.

    Rare and unseen words become `<unk>`, line ends `<eos>`.
    """

    kind: Literal["word"] = "word"
    min_count: PositiveInt = 1
    vocab: Annotated[Count, Field(gt=2)] | None = None


class BpeTokenizer(Strict):
    """Byte-level byte-pair encoding with `vocab` entries.

    It is trained on at most `sample` of the training text, taken evenly.
    """

    kind: Literal["bpe"] = "bpe"
    vocab: Annotated[Count, Field(ge=257)] = 4096
    sample: Annotated[Size, Field(gt=0)] = 100_000_000


class FileTokenizer(Strict):
    """An existing `tokenizer.json`, or a folder that has one: here, or in the data folder.

    With `cut` it loses the entries that the text never uses, and the model their rows. The text is
    cut into the same pieces as before. Other text that would need a missing entry gets shorter
    ones, down to single bytes, and still comes back.
    """

    kind: Literal["file"] = "file"
    path: str
    cut: bool = added(False)


class ModelTokenizer(Strict):
    """The tokenizer of the model that the stage starts from: of its `input`, or of its `teacher`.

    `sha256` is the checksum of that tokenizer's file. It is filled in when the model is there.
    """

    kind: Literal["model"] = "model"
    sha256: str | None = added(None)


TRAINED = (ByteTokenizer, CharTokenizer, WordTokenizer, BpeTokenizer)
"""Kinds that are made from the text itself."""

Tokenizer = Annotated[
    Annotated[
        ByteTokenizer
        | CharTokenizer
        | WordTokenizer
        | BpeTokenizer
        | FileTokenizer
        | ModelTokenizer,
        Discriminator("kind"),
    ],
    choice("bpe"),
]


class Data(Strict):
    """Text and how it becomes windows of tokens.

    `corpus` is a registered name, a text file, folder or glob, `hf:owner/name[:config]`, or a list
    of files and folders. `column` is the column of text in files of rows (CSV, TSV, JSON lines,
    Parquet, the hub): `text`, or the only one of text, where it is left out. `validation` and
    `test` are the fractions held out where the corpus has no standard split. `separator` is what
    stands between the documents of a text file, such as `<|endoftext|>`. Windows run on across
    documents that are `joined`; `isolated` ones see nothing of each other, in training and in
    evaluation. In place of a corpus, a `stream` is read while a model trains.
    """

    corpus: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    stream: Stream | None = None
    column: str | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    tokenizer: Tokenizer | None = None
    context: PositiveInt = 256
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    documents: Literal["joined", "isolated"] = "joined"

    @model_validator(mode="before")
    @classmethod
    def _no_task(cls, raw: object) -> object:
        """Say what examples are for, where a text has to be named."""
        if isinstance(raw, Mapping) and "task" in raw:
            raise ValueError(
                f"task: {raw['task']} has examples, which a model learns by fine-tuning; name a "
                f"corpus here"
            )
        return raw

    @model_validator(mode="after")
    def _one_text(self) -> Data:
        """Refuse both a corpus and a stream, or neither, and fields that a stream has itself."""
        if self.stream is None:
            if self.corpus is None:
                raise ValueError(
                    "corpus: is missing; name a text (data.corpus), or shards (data.stream)"
                )
            return self
        if self.corpus is not None:
            raise ValueError("stream: corpus names a text as well; give one of them")
        for name, instead in _OF_STREAMS.items():
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(f"{name}: is for a corpus; {instead}")
        if isinstance(self.tokenizer, CharTokenizer):
            raise ValueError(
                "tokenizer: char needs every character of a text, and a stream has more than was "
                "read before; use byte or bpe"
            )
        return self

    @property
    def label(self) -> str:
        """What the text is called: its name, or the first of several and how many more."""
        if self.stream is not None:
            return self.stream.source
        if self.corpus is None or isinstance(self.corpus, str):
            return self.corpus or ""
        names = list(self.corpus)
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

    union_tag: ClassVar[str] = "text"
    """How a fault of a config names this kind of data beside examples."""

    def packed(self) -> Data:
        """Return what packing depends on: windows are cut from the shards later."""
        stream = None if self.stream is None else self.stream.packed()
        return self.model_copy(update={"context": 1, "documents": "joined", "stream": stream})

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave a later field out at its default: ids hash what is written, and older ones stay."""
        fields: dict[str, Any] = plain(self)
        if self.separator is None:
            fields.pop("separator", None)
        if self.documents == "joined":
            fields.pop("documents", None)
        for name in ("stream",) if self.stream is None else ("corpus", *_OF_STREAMS):
            fields.pop(name, None)
        return fields


_OF_STREAMS = {
    "column": "the column of a stream is stream.text",
    "separator": "the rows of a stream are its documents; leave it out",
    "validation": "a stream holds out a size, such as stream.validation: 2MB",
    "test": "a stream holds out a size, such as stream.test: 2MB",
}
"""Fields of a corpus that a stream does not have, and what to write instead."""
