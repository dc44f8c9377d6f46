import json

import pytest
from tokenizers import Regex, Tokenizer as Backend, decoders, models, pre_tokenizers

from flyweight.data import patterns
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError


def text_of(pattern, kind=Regex):
    backend = Backend(
        models.BPE(
            vocab={
                letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
            },
            merges=[],
        )
    )
    split = pre_tokenizers.Split(kind(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend.to_str()


SLOW = "(a+)+$"


def test_patterns_of_common_models_and_our_own_stay_here():
    known = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert isinstance(patterns.load(text_of(known)), Backend)
    assert isinstance(
        patterns.load(text_of("(a+)+$", kind=str)), Backend
    )  # not a regular expression
    for pattern in patterns.LINEAR:
        text_of(pattern)  # each is one to the library


def test_another_pattern_encodes_elsewhere_to_the_same_ids():
    source = text_of("[ab]+")
    tokenizer, here = Tokenizer(source), Backend.from_str(source)
    assert not isinstance(tokenizer._backend, Backend)
    texts = ["", "abba und ü\U0001f600", "b" * 70_000, "c"]
    assert tokenizer.encode_batch(texts) == [here.encode(text).ids for text in texts]
    assert tokenizer.decode_batch(tokenizer.encode_batch(texts)) == texts
    assert tokenizer._backend.encode("ü").offsets == here.encode("ü").offsets
    assert tokenizer.vocab_size == 256


def test_a_pattern_that_does_not_end_is_stopped_and_the_next_text_is_encoded(monkeypatch):
    tokenizer = Tokenizer(text_of(SLOW))
    monkeypatch.setattr(patterns, "SECONDS", 0.2)
    monkeypatch.setattr(patterns, "CHARACTERS_PER_SECOND", 10**9)
    with pytest.raises(
        FlyweightError,
        match=r"regular expression of the tokenizer was stopped.*more than [0-9.]+ s",
    ):
        tokenizer.encode(("a" * 18 + " ") * 4000)
    monkeypatch.setattr(patterns, "SECONDS", 60.0)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_a_pattern_that_the_library_refuses_is_no_tokenizer():
    raw = json.loads(text_of("[ab]+"))
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(" * 5000
    with pytest.raises(ValueError, match="parse depth limit"):
        Tokenizer(json.dumps(raw))
