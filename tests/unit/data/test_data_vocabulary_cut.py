"""A tokenizer without what a text never uses encodes that text as before."""

import json

import pytest
from gguf_models import PRE_TOKENIZERS, TEXT, changed, tokenizer

from flyweight.config import schema
from flyweight.data.special import Special
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.vocabulary_cut import cut_vocabulary
from flyweight.errors import RequestError

WORDS = "The king sees the model; Ann takes one. 12 o'clock — café"
OTHER = "def double(x): return 2 * x  # 😀\n\t naïve"


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    return tokenizer(schema.BpeTokenizer(vocab=400))


def test_the_text_is_encoded_into_the_same_entries_under_new_ids(known):
    used = known.encode(WORDS)
    cut = cut_vocabulary(known, used)
    small = cut.tokenizer
    assert small.vocab_size == len(cut.kept) < known.vocab_size
    assert [cut.kept[at] for at in small.encode(WORDS)] == used
    assert list(cut.kept) == sorted(cut.kept) and known.separator in cut.kept
    assert cut.kept[small.separator] == known.separator
    words = {at: text for text, at in known.vocab.items()}
    assert all(small.vocab[words[old]] == new for new, old in enumerate(cut.kept))


@pytest.mark.parametrize("text", [OTHER, TEXT, "\x00\xff", ""])
def test_every_other_text_still_comes_back(known, text):
    small = cut_vocabulary(known, known.encode(WORDS)).tokenizer
    ids = small.encode(text)
    assert small.decode(ids) == text and small.reversible == known.reversible
    assert len(ids) >= len(known.encode(text))


def test_where_all_is_used_nothing_changes(known):
    cut = cut_vocabulary(known, range(known.vocab_size))
    assert cut.kept == tuple(range(known.vocab_size))
    assert cut.tokenizer is known
    none = cut_vocabulary(known, [])
    assert len(none.kept) == 256 + len(known.specials)


def test_merges_as_lists_and_more_ways_to_one_entry_are_kept(known):
    raw = json.loads(known.text)
    pairs = [
        merge.split(" ") if isinstance(merge, str) else merge for merge in raw["model"]["merges"]
    ]
    whole = next(a + b for a, b in pairs if len(a) == 2 and len(b) == 1)
    another = [whole[0], whole[1:]]
    vocab = {**raw["model"]["vocab"], whole[1:]: known.vocab_size}
    merges = [*pairs, list(whole[1:]), another]
    two_ways = changed(known, model={"merges": merges, "vocab": vocab})
    used = two_ways.encode(TEXT)
    cut = cut_vocabulary(two_ways, [known.vocab[whole]])
    assert {vocab[part] for part in (*another, whole[:2])} <= set(cut.kept)
    cut = cut_vocabulary(two_ways, used)
    assert [cut.kept[at] for at in cut.tokenizer.encode(TEXT)] == used


def test_special_tokens_keep_their_meaning(known):
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {
            "<|endoftext|>": {
                "id": "<|endoftext|>",
                "ids": [known.separator],
                "tokens": ["<|endoftext|>"],
            }
        },
    }
    opened = changed(known, post_processor=template)
    opened.declared = Special(bos=known.separator, ends=(known.separator,), pad=known.pad)
    cut = cut_vocabulary(opened, opened.encode(WORDS))
    assert [cut.kept[at] for at in cut.tokenizer.encode(WORDS)] == opened.encode(WORDS)
    assert cut.tokenizer.begin == (cut.tokenizer.separator,)
    assert cut.kept[cut.tokenizer.special.ends[0]] == known.separator


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "not the 256 bytes"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": {"dropout": 0.1}}, "dropout"),
    ],
)
def test_a_tokenizer_of_which_it_is_not_exact_is_refused(known, parts, why):
    with pytest.raises(RequestError, match=why):
        cut_vocabulary(changed(known, **parts), [1, 2])


def test_other_kinds_are_refused():
    with pytest.raises(RequestError, match="vocabulary: the tokenizer"):
        cut_vocabulary(tokenizer(schema.CharTokenizer()), [1, 2])


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_tokenizers_of_published_models_are_cut_exactly(known, name):
    theirs = changed(known, normalizer={"type": "NFC"}, **PRE_TOKENIZERS[name])
    used = theirs.encode(WORDS)
    cut = cut_vocabulary(theirs, used)
    assert len(cut.kept) < theirs.vocab_size
    assert [cut.kept[at] for at in cut.tokenizer.encode(WORDS)] == used
    for text in (TEXT, OTHER):
        back = cut.tokenizer.decode(cut.tokenizer.encode(text))
        assert back == theirs.decode(theirs.encode(text))
