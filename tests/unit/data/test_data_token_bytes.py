"""The bytes of tokens: joined they are the text, for every kind that can be aligned; words are refused."""

import pytest

from flyweight.config import schema
from flyweight.data.token_bytes import token_bytes
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.errors import RequestError

TEXT = " Über the hills, far away.\n\tthe  end 🙂 of the hills\n"


def trained(config):
    return train(config, lambda: iter([TEXT * 9]), lambda: iter([TEXT]), len(TEXT) * 9, False)


def joined(known, ids):
    return b"".join(known.table[token] for token in ids)


@pytest.mark.parametrize(
    "config",
    [schema.ByteTokenizer(), schema.CharTokenizer(), schema.BpeTokenizer(vocab=300)],
    ids=lambda config: config.kind,
)
def test_the_tokens_bytes_are_the_text(config):
    tokenizer = trained(config)
    known = token_bytes(tokenizer)
    assert joined(known, tokenizer.encode(TEXT)) == TEXT.encode()
    assert known.space == "never" and len(known.table) == tokenizer.vocab_size


def test_sentencepiece_puts_a_space_before_the_text(real_data):
    if not (real_data / "stories260k").is_dir():
        pytest.skip("no local copy of stories260k")
    tokenizer = Tokenizer.load(real_data / "stories260k")
    known = token_bytes(tokenizer)
    for text in (TEXT, "Once upon a time\n", "\xa0"):
        assert known.adds_space(text)
        assert joined(known, tokenizer.encode(text, start=False)) == b" " + text.encode()
    assert known.special == {0: "<unk>", 1: "<s>", 2: "</s>"}
    assert known.table[1] is None


def test_words_have_no_bytes_of_their_own():
    with pytest.raises(RequestError, match="its tokens have no bytes of their own"):
        token_bytes(trained(schema.WordTokenizer()))
