"""A tokenizer of a file is found, and cut to what a text uses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gguf_models import TEXT, tokenizer

from flyweight.config import schema
from flyweight.data.corpus import Corpus
from flyweight.data.pack import pack
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_file import AT_ONCE, file_tokenizer, tokenizer_path, used_entries
from flyweight.errors import RequestError

STORY = "The king sees the model; Ann takes one. It is late, and Bob reads the page again.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data folder with a tokenizer in `tokenizers/known`."""
    place = tmp_path / "data" / "tokenizers" / "known"
    place.mkdir(parents=True)
    tokenizer(schema.BpeTokenizer(vocab=400)).save(place / "tokenizer.json")
    return tmp_path / "data"


def test_it_is_found_here_and_in_the_data_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = schema.FileTokenizer(path="tokenizers/known")
    beside = folder / "tokenizers" / "known"
    assert tokenizer_path(config, folder) == beside
    assert tokenizer_path(config, None) == Path("tokenizers/known")
    absolute = schema.FileTokenizer(path=str(tmp_path / "none"))
    assert tokenizer_path(absolute, folder) == tmp_path / "none"
    shutil.copytree(beside, tmp_path / "tokenizers" / "known")
    assert tokenizer_path(config, folder) == Path("tokenizers/known")
    missing = schema.FileTokenizer(path="nowhere")
    with pytest.raises(RequestError, match="nowhere"):
        file_tokenizer(missing, folder, [])


def test_texts_in_many_pieces_use_what_they_use_at_once(folder):
    known = file_tokenizer(schema.FileTokenizer(path="tokenizers/known"), folder, [])
    pieces = [f"{STORY}{n}" for n in range(AT_ONCE + 3)]
    assert used_entries(known, pieces) == {at for piece in pieces for at in known.encode(piece)}


def test_a_corpus_has_the_same_pieces_and_fewer_entries(folder, tmp_path):
    (tmp_path / "text.txt").write_text(STORY * 60)
    corpora = []
    for cut in (False, True):
        config = schema.FileTokenizer(path="tokenizers/known", cut=cut)
        data = schema.Data(corpus=str(tmp_path / "text.txt"), tokenizer=config, context=8)
        corpora.append(pack(data, folder, tmp_path / f"cut-{cut}"))
    whole, small = corpora
    assert small.meta.vocab_size < whole.meta.vocab_size
    for split in ("train", "validation", "test"):
        assert words(small, split) == words(whole, split)
        assert small.meta.splits[split].lost == 0


def words(corpus: Corpus, split: str) -> list[str]:
    names = {at: text for text, at in corpus.tokenizer.vocab.items()}
    return [
        names[int(at)] for at in corpus.split(split).tokens[0 : len(corpus.split(split).tokens)]
    ]


def test_text_that_needs_what_is_gone_gets_shorter_pieces_and_comes_back(folder):
    config = schema.FileTokenizer(path="tokenizers/known", cut=True)
    small = file_tokenizer(config, folder, [STORY])
    whole = Tokenizer.load(folder / "tokenizers" / "known")
    for text in (TEXT, "\x00\xff", "naïve 😀"):
        assert small.decode(small.encode(text)) == text
        assert len(small.encode(text)) >= len(whole.encode(text))


def test_what_cannot_be_cut_exactly_is_refused(folder):
    tokenizer(schema.CharTokenizer()).save(folder / "tokenizer.json")
    config = schema.FileTokenizer(path=str(folder / "tokenizer.json"), cut=True)
    with pytest.raises(RequestError, match=r"data\.tokenizer\.cut: .* leave cut out"):
        file_tokenizer(config, None, [STORY])


def test_a_tokenizer_that_is_not_cut_is_written_as_before():
    assert schema.FileTokenizer(path="x").model_dump() == {"kind": "file", "path": "x"}
    cut = schema.FileTokenizer(path="x", cut=True)
    assert cut.model_dump() == {"kind": "file", "path": "x", "cut": True}
