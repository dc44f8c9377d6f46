"""The process in which `data.patterns` runs tokenizers with unknown regular expressions."""

from __future__ import annotations

from typing import Any

import tokenizers

from flyweight.core.helper import serve

_kept: list[tokenizers.Tokenizer] = []


def work(question: dict[str, Any]) -> dict[str, Any]:
    """Return the ids and offsets of texts, or the texts of ids.

    `unread` where the tokenizer was not sent yet.
    """
    try:
        return _work(question)
    except MemoryError:
        raise
    except BaseException as error:  # the library raises bare Exception, and panics as BaseException
        return {"failed": (str(error) or type(error).__name__)[:1000]}


def _work(question: dict[str, Any]) -> dict[str, object]:
    if "tokenizer" in question:
        _kept[:] = [tokenizers.Tokenizer.from_str(question["tokenizer"])]
        _kept[0].no_truncation()
        _kept[0].no_padding()
    if not _kept:
        return {"unread": True}
    if question["work"] == "load":
        return {}
    if question["work"] == "decode":
        return {
            "texts": _kept[0].decode_batch(question["batch"], skip_special_tokens=question["skip"])
        }
    _kept[0].encode_special_tokens = question["special"]
    encodings = _kept[0].encode_batch(question["texts"], add_special_tokens=question["add"])
    return {
        "ids": [encoding.ids for encoding in encodings],
        "offsets": [encoding.offsets for encoding in encodings],
    }


if __name__ == "__main__":
    serve(work)
