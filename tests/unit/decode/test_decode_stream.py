"""What is shown while a text comes is what it says in the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from special_fixture import spm_like

from flyweight.config import schema
from flyweight.data.tokenizer_training import train
from flyweight.decode.stream import TextStream, after, encoded
from flyweight.errors import RequestError


def test_a_byte_fallback_tokenizer_streams_each_character_once(tmp_path: Path):
    tokenizer = spm_like(tmp_path)
    before, new = tokenizer.encode("a"), tokenizer.encode(" 한글 한글", start=False)
    for cut in range(len(new) + 1):
        heard: list[str] = []
        stream = TextStream(tokenizer, (), heard.append, before)
        for end in range(1, cut + 1):
            assert not stream.stopped(new[:end])
        whole = stream.finished(new[:cut])
        assert "".join(heard) == whole
    assert whole == " 한글 한글"


def test_the_text_is_that_of_prompt_and_new_tokens_together():
    text = "I say a word\nand another\n"
    tokenizer = train(
        schema.WordTokenizer(), lambda: iter([text]), lambda: iter([]), len(text), False
    )
    whole = tokenizer.encode(text)
    for cut in range(1, len(whole)):
        assert tokenizer.decode(whole[:cut]) + after(
            tokenizer, whole[:cut], whole[cut:]
        ) == tokenizer.decode(whole)


def test_a_prompt_that_is_not_utf_8_is_told_so():
    tokenizer = train(schema.CharTokenizer(), lambda: iter(["abc"]), lambda: iter([]), 3, False)
    with pytest.raises(RequestError, match="not UTF-8 text: the byte 0xe9 at character 2"):
        encoded(tokenizer, "a\udce9")


def test_a_token_without_a_row_is_named(tmp_path: Path):
    tokenizer = spm_like(tmp_path)
    assert encoded(tokenizer, "a", rows=261)
    with pytest.raises(RequestError, match=r"none for 'h' \(267\) of the prompt"):
        encoded(tokenizer, "h", rows=267)
