"""Two tokenizers on one text: common boundaries are where both have read the same bytes, and nothing is read ahead."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from flyweight.config import schema
from flyweight.data.alignment import (
    TokenPlaces,
    align,
    first_mark,
    same_tokenizer,
    shared_groups,
)
from flyweight.data.corpus import Corpus
from flyweight.data.pack import pack
from flyweight.data.sources import source_of
from flyweight.data.token_bytes import TokenBytes, token_bytes
from flyweight.errors import RequestError

LINES = [
    "A small model, under a budget; it learns the words.\n",
    "Größe: 12 µm, naïve cafés — and so on.\n",
    "the the the thing of things\n",
]
STORIES = "<|story|>"
BYTE, CHAR = {"kind": "byte"}, {"kind": "char"}
SMALL, LARGE = {"kind": "bpe", "vocab": 300}, {"kind": "bpe", "vocab": 420}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    random = np.random.default_rng(0)
    stories = ["".join(random.choice(LINES, 9)).strip() for _ in range(40)]
    path.write_text(f"\n{STORIES}\n".join(stories), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def packed(text, tmp_path_factory, real_data):
    made = {}

    def packed(tokenizer, separator=STORIES):
        kind = str(tokenizer), separator
        if kind not in made:
            if tokenizer["kind"] == "stories":
                path = real_data / "stories260k"
                if not path.is_dir():
                    pytest.skip("no local copy of stories260k")
                tokenizer = {"kind": "file", "path": str(path)}
            data = schema.Data(
                corpus=str(text), tokenizer=tokenizer, context=8, separator=separator
            )
            corpus = pack(data, None, tmp_path_factory.mktemp("packed") / "corpus")
            made[kind] = corpus, TokenPlaces.of(corpus, source_of(data).documents("train"))
        return made[kind]

    return packed


PAIRS = [
    (BYTE, SMALL),
    (SMALL, BYTE),
    (CHAR, LARGE),
    (LARGE, SMALL),
    (SMALL, {"kind": "stories"}),
    ({"kind": "stories"}, CHAR),
    ({"kind": "stories"}, {"kind": "stories"}),
]


def spelled(corpus: Corpus, ids):
    """Return the text of tokens as bytes, without marks and the spaces that a tokenizer adds."""
    known = token_bytes(corpus.tokenizer)
    joined = b"".join(known.table[token] or b"|" for token in ids)
    return joined.replace(b"| ", b"") if known.space == "always" else joined.replace(b"|", b"")


@pytest.mark.parametrize("separator", [STORIES, None])
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_at_a_common_boundary_both_have_read_the_same_text(packed, one, other, separator):
    (student, own), (teacher, theirs) = packed(one, separator), packed(other, separator)
    length, found = 24, 0
    for start in (0, 7, 100, len(own.tokens) - 9):
        window = align(own, theirs, start, length)
        read = np.concatenate([theirs.tokens[a:b] for a, b in window.segments])
        assert len(window.positions) == length and window.tokens == len(read)
        ring = len(own.tokens) - 1
        ids = [own.tokens[at % ring] for at in range(start, start + length)]
        for position, at in enumerate(window.positions):
            if at < 0:
                continue
            found += 1
            mine, its = spelled(student, ids[: position + 1]), spelled(teacher, read[: at + 1])
            assert mine.endswith(its) and len(mine) - len(its) < 20
    assert found > 4


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_text_behind_a_boundary_changes_nothing_before_it(packed, one, other):
    """What a teacher reads up to a boundary is the same in a longer window: nothing is ahead."""
    (_, own), (_, theirs) = packed(one), packed(other)
    for start in (0, 31, 90):
        long = align(own, theirs, start, 40)
        for length in (10, 25):
            short = align(own, theirs, start, length)
            assert np.array_equal(short.positions, long.positions[:length])
            assert short.segments[0][0] == long.segments[0][0]
            assert short.positions.max() < short.tokens


def test_one_tokenizer_twice_is_itself(packed):
    for tokenizer in (BYTE, CHAR, LARGE):
        corpus, places = packed(tokenizer)
        length = 50
        for start in (0, 3, 77, len(places.tokens) - 20):
            window = align(places, places, start, length)
            read = np.concatenate([places.tokens[a:b] for a, b in window.segments])
            ring = len(places.tokens) - 1
            own = [int(places.tokens[at % ring]) for at in range(start, start + length)]
            assert read.tolist() == own
            ahead = [at for at, position in enumerate(window.positions) if position != at]
            assert not ahead
        known = token_bytes(corpus.tokenizer)
        groups = shared_groups([known, known], [first_mark(corpus)] * 2)
        assert groups.count == corpus.meta.vocab_size
        assert sorted(groups.of[0].tolist()) == list(range(groups.count))
        assert np.array_equal(*groups.of)
        assert same_tokenizer(corpus.tokenizer, corpus.tokenizer)


def test_every_boundary_of_bytes_is_common_with_coarser_tokens(packed):
    _, own = packed(SMALL)
    _, theirs = packed(BYTE)
    window = align(own, theirs, 0, 60)
    assert (window.positions >= 0).all()
    back = align(theirs, own, 0, 60)
    assert 0.1 < (back.positions >= 0).mean() < 0.9


def test_tokens_that_lose_text_are_refused(text, tmp_path):
    data = schema.Data(corpus=str(text), tokenizer=BYTE, context=8)
    corpus = pack(data, None, tmp_path / "corpus")
    other = [*source_of(data).documents("train")]
    other[0] = type(other[0])(other[0].name, other[0].text.replace("budget", "midget", 1))
    with pytest.raises(RequestError, match=r"do not give the text back .*near '.*midget"):
        TokenPlaces.of(corpus, other)


def vocabulary(words):
    return TokenBytes((None, *words), {0: "<end>"})


def longest(words, text):
    return max((word for word in words if text.startswith(word)), key=len)


words = st.sets(st.binary(min_size=1, max_size=3).map(lambda raw: bytes(b % 3 for b in raw)))
ALPHABET = [bytes([value]) for value in range(3)]


@settings(max_examples=200, deadline=None)
@given(words, words, st.lists(st.integers(0, 2), min_size=3, max_size=9))
def test_groups_are_one_event_where_the_longest_token_is_taken(one, other, values):
    one, other = [*ALPHABET, *sorted(one)], [*ALPHABET, *sorted(other)]
    text = bytes(values)
    groups = shared_groups([vocabulary(one), vocabulary(other)], [0, 0])
    mine = groups.of[0][1 + one.index(longest(one, text))]
    its = groups.of[1][1 + other.index(longest(other, text))]
    assert mine == its
    shared = set(one) & set(other)
    assert groups.text == len(shared) and groups.count == len(shared) + 1


def test_tokens_that_begin_with_nothing_shared_are_in_no_group():
    groups = shared_groups(
        [vocabulary([b"a", b"ab", b"x"]), vocabulary([b"a", b"abc", b"y"])], [0, None]
    )
    assert groups.count == 2 and groups.text == 1
    assert groups.of[0].tolist() == [1, 0, 0, 2] and groups.of[1].tolist() == [1, 0, 0, 2]
    unnamed = TokenBytes((None, b"a"), {0: "<s>"})
    assert shared_groups([vocabulary([b"a"]), unnamed], [None, None]).of[0].tolist() == [1, 0]
    assert shared_groups([vocabulary([b"a"]), unnamed], [0, 0]).of[1].tolist() == [1, 0]
