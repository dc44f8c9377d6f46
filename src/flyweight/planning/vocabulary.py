"""The vocabulary of a text that was not read yet: asked for by its tokenizer, or assumed."""

from __future__ import annotations

from flyweight.config import schema
from flyweight.config.model_rules import fitting_vocabulary

ASSUMED_VOCAB = {"byte": 258, "char": 128, "word": 10_000, "file": 32_000, "model": 32_000}


def vocabulary_key(data: schema.Data) -> str:
    """Return the key of a corpus' vocabulary: its data config without the context."""
    return data.packed().model_dump_json()


def vocabulary(data: schema.Data, model: schema.Architecture) -> int:
    """Return the vocabulary of an unread corpus: its tokenizer's, else an assumed one.

    An assumed one is changed to the nearest that the model allows.
    """
    assert data.tokenizer is not None
    if vocab := requested(data):
        return vocab
    vocab = ASSUMED_VOCAB[data.tokenizer.kind]
    return fitting_vocabulary(model, vocab) if isinstance(model, schema.ModelConfig) else vocab


def requested(data: schema.Data) -> int | None:
    """Return the vocabulary that a corpus' tokenizer asks for, or None where its text decides."""
    if isinstance(data.tokenizer, schema.ByteTokenizer):
        return ASSUMED_VOCAB["byte"]
    return data.tokenizer.vocab if isinstance(data.tokenizer, schema.BpeTokenizer) else None


def assumption(data: schema.Data, model: schema.Architecture) -> str:
    """Return the assumption about an unread corpus in words.

    Empty where its tokenizer decides.
    """
    if data.tokenizer is None or requested(data):
        return ""
    return (
        f"{model.vocab_size} {data.tokenizer.kind} tokens (the real number is known once the "
        "corpus has been read)"
    )
