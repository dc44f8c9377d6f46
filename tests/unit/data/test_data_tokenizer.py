from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings, strategies as st
from special_fixture import spm_like

from flyweight.config import schema
from flyweight.data.tokenizer import SEPARATOR, Tokenizer
from flyweight.data.tokenizer_training import LONGEST_WORD, _sampled, _short_words, train
from flyweight.errors import RequestError

TEXT = "The cat sat on the mat.\n\tIt's 12 o'clock — naïve café 😀\n" * 20


def build(
    config: schema.Tokenizer, text: str = TEXT, others: str = "", separated: bool = False
) -> Tokenizer:
    return train(config, lambda: iter([text]), lambda: iter([others]), len(text), separated)


BYTE = build(schema.ByteTokenizer())
BPE = build(schema.BpeTokenizer(vocab=300))


def test_byte_ids_are_bytes():
    assert BYTE.encode("aä\n") == list("aä\n".encode())
    assert BYTE.vocab_size == 256
    assert build(schema.ByteTokenizer(), separated=True).vocab_size == 257
    assert BYTE.separator is None
    assert build(schema.ByteTokenizer(), separated=True).separator == 256


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_byte_and_bpe_give_any_text_back(text: str):
    for tokenizer in (BYTE, BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert BYTE.encode(text) == list(text.encode())


@pytest.mark.parametrize(
    "config", [schema.ByteTokenizer(), schema.CharTokenizer(), schema.BpeTokenizer(vocab=300)]
)
@pytest.mark.parametrize("separated", [False, True])
def test_text_comes_back_and_no_text_is_the_separator(config: schema.Tokenizer, separated: bool):
    text = TEXT + "|<>end" + SEPARATOR
    tokenizer = build(config, text, separated=separated)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert (tokenizer.separator is not None) == separated
    assert tokenizer.separator not in ids
    if separated:
        assert tokenizer.separator is not None
        assert tokenizer.ends == {tokenizer.separator}
        assert (
            tokenizer.decode([*tokenizer.encode("The"), tokenizer.separator]) == "The" + SEPARATOR
        )
        assert (
            tokenizer.decode([*tokenizer.encode("The"), tokenizer.separator], skip_special=True)
            == "The"
        )


def test_char_vocabulary_is_the_sorted_characters():
    tokenizer = build(schema.CharTokenizer(), "hello\nworld")
    assert tokenizer.vocab_size == len(set("hello\nworld"))
    assert tokenizer.encode("hd\n") == [
        sorted(set("hello\nworld")).index(character) for character in "hd\n"
    ]
    assert tokenizer.unknown is None


def test_char_gets_unknown_only_where_held_out_text_needs_it():
    tokenizer = build(schema.CharTokenizer(), "abc", others="abz")
    assert tokenizer.vocab_size == 4
    assert tokenizer.unknown == 3
    assert tokenizer.encode("zab") == [3, 0, 1]
    assert build(schema.CharTokenizer(), "abc", others="ab").vocab_size == 3


def test_unknown_characters_are_never_dropped():
    tokenizer = build(schema.CharTokenizer(), "abc")
    with pytest.raises(RequestError, match="the tokenizer knows no 'x', 'é' and has no <unk>"):
        tokenizer.encode("axéb")


def test_words():
    tokenizer = build(schema.WordTokenizer(), " the cat <unk> \n the dog\x1cand\u00a0cat the\n")
    assert tokenizer.decode([0, 1, 2, 3]) == "<unk>\nthe cat"
    assert tokenizer.vocab_size == 2 + len({"the", "cat", "dog", "and"})
    assert (tokenizer.unknown, tokenizer.line_end, tokenizer.separator) == (0, 1, None)
    ids = tokenizer.encode(" the  cat <unk> zebra \n dog\n")
    assert ids == [2, 3, 0, 0, 1, tokenizer.vocab["dog"], 1]
    assert tokenizer.decode(ids) == "the cat <unk> <unk>\ndog\n"
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_blank_lines_between_words_come_back():
    tokenizer = build(schema.WordTokenizer(), "a b c\n")
    ids = tokenizer.encode("a\n\n\nb \n c")
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.decode(ids) == "a\n\n\nb\nc"


def test_word_limits():
    text = "a a a b b c\n"
    assert build(schema.WordTokenizer(min_count=2), text).vocab.keys() == {
        "<unk>",
        "<eos>",
        "a",
        "b",
    }
    assert build(schema.WordTokenizer(vocab=3), text).vocab.keys() == {"<unk>", "<eos>", "a"}


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_as_many_tokens_as_python_counts_words(text: str):
    tokenizer = build(schema.WordTokenizer(), "a b\n")
    assert len(tokenizer.encode(text)) == len(text.split()) + text.count("\n")


def test_ptb_has_the_standard_ten_thousand(real_data: Path):
    text = (real_data / "ptb" / "ptb.train.txt").read_text()
    tokenizer = build(schema.WordTokenizer(), text)
    assert tokenizer.vocab_size == 10_000
    assert len(tokenizer.encode(text)) == 929_589
    test = (real_data / "ptb" / "ptb.test.txt").read_text()
    ids = tokenizer.encode(test)
    assert ids.count(0) == test.split().count("<unk>"), "every test word is known"
    assert tokenizer.decode(ids).split() == test.split()


def test_tiny_shakespeare_has_65_characters(real_data: Path):
    text = (real_data / "tiny-shakespeare" / "input.txt").read_text()
    tokenizer = build(
        schema.CharTokenizer(), text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]
    )
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(text[:5000])) == text[:5000]


@pytest.mark.parametrize("vocab", [257, 300, 1000])
@pytest.mark.parametrize("separated", [False, True])
def test_bpe_has_the_size_asked_for(vocab: int, separated: bool, prose: Callable[..., str]):
    tokenizer = build(schema.BpeTokenizer(vocab=vocab), prose(800), separated=separated)
    assert tokenizer.vocab_size == vocab
    assert not separated or tokenizer.separator == vocab - 1


def test_bpe_is_the_same_in_every_process(prose: Callable[..., str], tmp_path: Path):
    (tmp_path / "text.txt").write_text(prose(300))
    program = (
        "import sys; from flyweight.config.schema import BpeTokenizer; from "
        "flyweight.data.tokenizer_training import train\n"
        "text = open(sys.argv[1]).read()\n"
        "print(train(BpeTokenizer(vocab=500), lambda: iter([text]), lambda: iter([]), len(text), "
        "True).fingerprint)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "text.txt")]
    found = {
        subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)
    }
    assert found == {
        build(schema.BpeTokenizer(vocab=500), prose(300), separated=True).fingerprint + "\n"
    }


def test_bpe_reads_a_sample_taken_evenly():
    def texts() -> Iterator[str]:
        return (f"{number:04d}" for number in range(1000))

    taken = list(_sampled(texts(), 400, 4000))
    assert len(taken) == pytest.approx(100, abs=2)
    numbers = [int(text) for text in taken]
    assert max(after - before for before, after in pairwise(numbers)) <= 11
    assert list(_sampled(texts(), 4000, 4000)) == list(texts())
    assert list(_sampled(texts(), 10**9, 4000)) == list(texts())


def test_files_alone_reproduce_everything(tmp_path: Path):
    for number, config in enumerate(
        (
            schema.ByteTokenizer(),
            schema.CharTokenizer(),
            schema.WordTokenizer(),
            schema.BpeTokenizer(),
        )
    ):
        tokenizer = build(config, separated=True)
        path = tmp_path / f"{number}" / "tokenizer.json"
        tokenizer.save(path)
        again, theirs = Tokenizer.load(path.parent), tokenizers.Tokenizer.from_file(str(path))
        ids = tokenizer.encode(TEXT)
        assert again.encode(TEXT) == ids == theirs.encode(TEXT).ids
        assert (
            again.decode(ids)
            == tokenizer.decode(ids)
            == theirs.decode(ids, skip_special_tokens=False)
        )
        assert again.fingerprint == tokenizer.fingerprint
        assert (again.separator, again.unknown, again.line_end) == (
            tokenizer.separator,
            tokenizer.unknown,
            tokenizer.line_end,
        )
        assert build(schema.FileTokenizer(path=str(path))).fingerprint == tokenizer.fingerprint


def test_fingerprint_is_that_of_the_canonical_json(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    BPE.save(path)
    pretty = json.dumps(json.loads(path.read_text()), indent=2)
    assert Tokenizer(pretty).fingerprint == BPE.fingerprint
    assert len(BPE.fingerprint) == len(hashlib.sha256().hexdigest())
    assert BPE.fingerprint != BYTE.fingerprint


def test_templates_and_truncation_of_other_peoples_files_do_not_apply(tmp_path: Path):
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 0, "[CLS]": 1, "</s>": 2, "[UNK]": 3}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[CLS]", "</s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A </s>", None, [("[CLS]", 1), ("</s>", 2)]
    )
    backend.enable_truncation(2)
    backend.enable_padding()
    tokenizer = Tokenizer(backend.to_str())
    assert tokenizer.encode_batch(["a a a a", "a"]) == [[0, 0, 0, 0], [0]]
    assert (tokenizer.separator, tokenizer.unknown, tokenizer.line_end) == (2, 3, None)


@pytest.mark.parametrize("content", [None, "not json", "{}", '{"model": 1}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str | None):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RequestError, match=r"tokenizer\.json is not a readable tokenizer\.json"):
        Tokenizer.load(path)


def test_the_library_is_imported_only_when_needed():
    program = (
        "import sys, flyweight.data.pack, flyweight.data.windows\n"
        "print([name for name in ('torch', 'tokenizers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


# --- long words ---


def test_training_is_linear_in_the_length_of_a_word():
    drawn = random.Random(1)
    seconds: list[float] = []
    for length in (20_000, 160_000):
        word = "".join(drawn.choices("ACGT", k=length))
        started = time.process_time()
        tokenizer = build(schema.BpeTokenizer(vocab=512), word)
        seconds.append(time.process_time() - started)
        assert tokenizer.decode(tokenizer.encode(word)) == word
    assert tokenizer.vocab_size == 512
    assert len(tokenizer.encode(word)) < 0.3 * len(word), "nothing was learned inside the word"
    # 8 times the letters: some 8 times the work, where quadratic training took 64 times (13 s).
    assert seconds[1] < 24 * seconds[0] + 1


def test_only_what_is_learned_from_is_cut():
    splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    long = LONGEST_WORD + 50
    for text in (
        TEXT,
        "naïve " + "é" * long + " end",
        " " * long + "x",
        "-" * 3 * long,
        "a" * (2 * LONGEST_WORD) + "'s",
    ):
        parts = list(_short_words(splitter, [text]))
        assert "".join(parts) == text
        words = [word for part in parts for word, _ in splitter.pre_tokenize_str(part)]
        assert max(map(len, words)) <= 2 * LONGEST_WORD + 2, "letters of two bytes count twice here"
    assert list(_short_words(splitter, [TEXT])) == [TEXT]
    punctuated = "ab,cd;" * LONGEST_WORD
    assert list(_short_words(splitter, [punctuated])) == [punctuated], "its words are short"


def test_a_missing_file_is_told_in_words(tmp_path: Path):
    with pytest.raises(
        RequestError,
        match=r"gone\.json is not a readable tokenizer\.json .*\(No such file or directory\)",
    ):
        Tokenizer.load(tmp_path / "gone.json")


# --- special tokens ---


def test_a_text_starts_after_the_begin_token_where_the_tokenizer_adds_one(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer = spm_like(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("a bad cab") == theirs("a bad cab").input_ids
    assert tokenizer.encode("a", start=False) == tokenizer.encode("a")[1:]
    assert tokenizer.begin == (1,) and tokenizer.special.bos == 1
    assert tokenizer.ends == {1, 2}  # what would begin another text ends this one


@pytest.mark.parametrize(
    ("files", "begin", "separator", "ends"),
    [
        ({"tokenizer_config": {"add_bos_token": False, "bos_token": "<s>"}}, (), 2, {2}),
        ({"tokenizer_config": {"eos_token": "<|stop|>"}}, (1,), 268, {1, 2, 268}),
        (
            {"tokenizer_config": {"eos_token": {"content": "<|stop|>"}, "add_bos_token": True}},
            (),
            268,
            {2, 268},
        ),
        ({"config": {"eos_token_id": 268, "bos_token_id": 1}}, (1,), 268, {1, 2, 268}),
        (
            {"generation_config": {"eos_token_id": [268, 2], "pad_token_id": -1}},
            (1,),
            2,
            {1, 2, 268},
        ),
        ({"config": {"eos_token_id": 9999}}, (1,), 2, {1, 2}),
    ],
)
def test_begin_and_end_are_those_that_the_models_files_name(
    tmp_path: Path, files, begin, separator, ends
):
    tokenizer = spm_like(tmp_path, **files)
    assert (tokenizer.begin, tokenizer.separator, tokenizer.ends) == (begin, separator, ends)
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again" / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "again")
    assert (again.begin, again.separator) == (begin, separator)


def test_a_users_text_gets_an_end_and_a_padding_token_and_a_published_vocabulary_does_not():
    for config in (
        schema.ByteTokenizer(),
        schema.CharTokenizer(),
        schema.WordTokenizer(),
        schema.BpeTokenizer(vocab=300),
    ):
        own = train(
            config, lambda: iter([TEXT]), lambda: iter([]), len(TEXT), False, published=False
        )
        assert (
            own.separator == own.vocab_size - 2
            and own.pad == own.vocab_size - 1
            and own.ends == {own.separator}
        )
        published = build(config)
        assert published.separator is None and published.pad is None
        if not isinstance(config, schema.BpeTokenizer):
            assert own.vocab_size == published.vocab_size + 2
    with pytest.raises(RequestError, match="give at least 258"):
        train(
            schema.BpeTokenizer(vocab=257),
            lambda: iter([TEXT]),
            lambda: iter([]),
            len(TEXT),
            False,
            published=False,
        )


def test_words_that_training_never_saw_are_named():
    tokenizer = build(schema.WordTokenizer(), "the cat sat\n")
    assert tokenizer.unknown_words("the dog sat\nbut the dog <unk>") == ("dog", "but")
    assert BYTE.unknown_words("dög") == ()
