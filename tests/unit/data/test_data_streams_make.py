"""Shards that are made of a text have its documents, and nothing else."""

import gzip
import json

import pytest

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.data.sources import source_of
from flyweight.data.streams import open_stream
from flyweight.data.streams.make import main, make, texts
from flyweight.errors import RequestError

STORIES = [f"Ann has {n} cats. Bob sees äöü.\n" for n in range(7)]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "stories.txt").write_text("<|sep|>".join(STORIES))
    return source_of(schema.Data(corpus=str(tmp_path / "stories.txt"), separator="<|sep|>"))


def rows(files):
    return [
        json.loads(line)["text"]
        for file in files
        for line in gzip.open(file, "rt", encoding="utf-8")
    ]


def test_shards_have_every_document_once_and_are_the_same_again(source, tmp_path):
    made = make(source, tmp_path / "shards", documents=3)
    assert len(made) == 3 and sorted(rows(made)) == sorted(each.strip() for each in STORIES)
    assert rows(made) == list(texts(source))
    again = make(source, tmp_path / "again", documents=3)
    assert [file.read_bytes() for file in made] == [file.read_bytes() for file in again]
    found = open_stream(Stream(source=f"{tmp_path}/shards/*.jsonl.gz"), None)
    assert len(found.shards) == 3
    with pytest.raises(RequestError):
        make(source, tmp_path / "shards")


def test_the_command_says_what_it_made_and_what_is_wrong(source, tmp_path, capsys):
    words = [str(tmp_path / "stories.txt"), str(tmp_path / "out"), "--separator", "<|sep|>"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"1 shards in {tmp_path / 'out'}\n"
    assert main(["no-such-text", str(tmp_path / "other")]) == 2
    assert "no corpus is called" in capsys.readouterr().err
