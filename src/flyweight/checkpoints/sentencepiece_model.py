"""Compare a sentencepiece model with the tokenizer that transformers makes of it.

Without a `tokenizer.json`, transformers converts the model by the rules of the class that the files
name. A class that is not the model's own gives a tokenizer that runs, but splits every text into
other pieces than the model was trained on. So both must split ordinary words alike.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flyweight.core.files import reason
from flyweight.errors import RequestError

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
BEGINS = "\u2581"
WORDS, TEXTS = 5, 16
"""Words of a text, and texts that are compared."""


def compare(folder: Path, theirs: Any, instead: str) -> None:
    """Raise RequestError where `theirs`, transformers' tokenizer, splits words otherwise.

    Compares nothing where the folder has a `tokenizer.json`, which counts alone, or where the
    sentencepiece library is missing. `instead` is what else the user can do.
    """
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if (
        file is None
        or (folder / "tokenizer.json").is_file()
        or importlib.util.find_spec("sentencepiece") is None
    ):
        return
    sentencepiece: Any = importlib.import_module("sentencepiece")
    try:
        model: Any = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"{file}: not a sentencepiece model ({reason(error)}); copy the model again"
        ) from error
    for text in _texts(model):
        expected: list[str] = model.encode(text, out_type=str)
        pieces: list[str] = theirs.convert_ids_to_tokens(
            theirs(text, add_special_tokens=False)["input_ids"]
        )
        if pieces != expected:
            raise RequestError(
                f"{file}: transformers ({type(theirs).__name__}) reads {text!r} as "
                f"{' '.join(pieces)!r}, but the sentencepiece model as {' '.join(expected)!r}. Put "
                "its tokenizer.json beside it, name its class in its tokenizer_config.json, or "
                f"{instead}"
            )


def _texts(model: Any) -> Iterator[str]:
    """Yield texts of words from the whole vocabulary, with one space between two."""
    unlike = (model.is_control, model.is_unknown, model.is_byte, model.is_unused)
    ids = [at for at in range(model.get_piece_size()) if not any(kind(at) for kind in unlike)]
    words = [
        word for at in ids if (word := model.id_to_piece(at).strip(BEGINS)) and "<" not in word
    ]
    words = [word for word in words if len(word) > 1 and word.isascii() and word.isalpha()] or words
    step = max(1, len(words) // (WORDS * TEXTS))
    chosen = words[::step]
    for start in range(0, min(len(chosen), WORDS * TEXTS), WORDS):
        yield " ".join(chosen[start : start + WORDS])
