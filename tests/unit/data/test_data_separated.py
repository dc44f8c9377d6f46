"""Documents cut at a separator: the reference is Python's own split of the whole text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from special_fixture import spm_like

from flyweight.config import schema
from flyweight.data import reading
from flyweight.data.document import SPLITS, Document
from flyweight.data.pack import pack
from flyweight.data.sources import separated, source_of
from flyweight.errors import RequestError

END = "<|end|>"


def documents(data: schema.Data, split: str) -> list[str]:
    found: list[str] = []
    for document in source_of(data).documents(split):
        assert isinstance(document, Document)
        if document.continues:
            found[-1] += document.text
        else:
            found.append(document.text)
    return found


@pytest.mark.parametrize("block", [64, 1 << 17])
def test_documents_are_those_of_the_whole_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(reading, "BLOCK", block)
    monkeypatch.setattr(separated, "BLOCK", block)
    draw = random.Random(1)
    stories = [
        " ".join(
            draw.choice(["a", "tale", "of\n\n", "end <|"]) for _ in range(draw.randrange(1, 90))
        )
        for _ in range(200)
    ]
    text = f"\n{END}\n".join([*stories, "", "  ", stories[0]])
    (tmp_path / "tales.txt").write_text(text)
    data = schema.Data(corpus=str(tmp_path / "tales.txt"), separator=END, validation=0.1, test=0.1)
    found = {split: documents(data, split) for split in SPLITS}
    assert [story for split in SPLITS for story in found[split]] == [
        part.strip() for part in text.split(END) if part.strip()
    ]
    assert all(len(found[split]) >= 5 for split in SPLITS)


def test_a_packed_corpus_has_an_end_after_each_document_or_what_the_tokenizer_adds(tmp_path: Path):
    stories = [letter * 20 for letter in "abcdefgh" * 8]
    (tmp_path / "tales.txt").write_text(f"\n{END}\n".join(stories))
    fields = {
        "corpus": str(tmp_path / "tales.txt"),
        "separator": END,
        "context": 8,
        "validation": 0.2,
        "test": 0.2,
    }
    plain = pack(
        schema.Data.model_validate({**fields, "tokenizer": "char"}), None, tmp_path / "plain"
    )
    split = plain.split("train")
    assert plain.marks == (plain.tokenizer.separator,) and split.opening == 0
    assert (split.tokens[:] == plain.tokenizer.separator).sum() == len(split.documents) > 20
    spm_like(tmp_path)
    opened = pack(
        schema.Data.model_validate(
            {**fields, "tokenizer": {"kind": "file", "path": str(tmp_path)}}
        ),
        None,
        tmp_path / "opened",
    )
    split = opened.split("train")
    assert (
        opened.marks == (1,)
        and split.opening == 1
        and (opened.meta.opening, opened.meta.closing) == ((1,), ())
    )
    assert split.tokens[:][split.documents].tolist() == [1] * len(split.documents)
    assert split.bytes == 20 * len(split.documents)


def test_a_corpus_with_documents_of_its_own_takes_no_separator(tmp_path: Path):
    with pytest.raises(
        RequestError, match=r"data\.separator: python-stdlib has documents of its own"
    ):
        source_of(schema.Data(corpus="python-stdlib", separator=END))


def test_without_a_separator_the_config_is_written_as_before():
    """Ids are hashes of what is written."""
    assert "separator" not in schema.Data(corpus="x").model_dump(mode="json")
    data = schema.Data(corpus="x", separator=END)
    assert schema.Data.model_validate(data.model_dump(mode="json")) == data
