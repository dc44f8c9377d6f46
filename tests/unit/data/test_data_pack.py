from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight.config.schema import Data
from flyweight.data import pack as packing
from flyweight.data.corpus import Corpus, Meta
from flyweight.data.document import SPLITS
from flyweight.data.pack import pack, source_fingerprint
from flyweight.errors import FlyweightError, RequestError

Prose = Callable[..., str]


def data(corpus: Path | str, tokenizer: Any = "byte", context: int = 16, **options: Any) -> Data:
    return Data.model_validate(
        {"corpus": str(corpus), "tokenizer": tokenizer, "context": context, **options}
    )


def test_a_file_becomes_tokens_and_counts(text_file: Path, tmp_path: Path):
    corpus = pack(data(text_file), None, tmp_path / "out")
    whole = text_file.read_text()
    text = ""
    for name in SPLITS:
        split = corpus.split(name)
        part = corpus.tokenizer.decode(split.tokens[:].tolist())
        text += part
        assert split.bytes == len(part.encode()) == len(split.tokens)
        assert split.words == len(part.split())
        assert split.documents.tolist() == [0]
        assert split.documents.dtype == np.int64
        assert split.tokens.dtype == np.uint16
    assert text == whole
    assert corpus.meta.vocab_size == 258  # bytes, an end and a padding token
    assert corpus.meta.lossless
    assert corpus.meta.splits["test"].overlap is not None
    assert corpus.meta.splits["train"].overlap is None


def test_ptb_has_the_standard_counts(real_data: Path, tmp_path: Path):
    corpus = pack(data("ptb", None), real_data, tmp_path / "out")
    assert corpus.meta.vocab_size == 10_000
    assert {name: len(corpus.split(name).tokens) for name in SPLITS} == {
        "train": 929_589,
        "validation": 73_760,
        "test": 82_430,
    }
    assert {name: corpus.split(name).words for name in SPLITS} == {
        "train": 929_589,
        "validation": 73_760,
        "test": 82_430,
    }
    assert corpus.split("test").unknown == 4794
    assert not corpus.meta.separated
    assert not corpus.meta.lossless
    assert corpus.split("train").bytes == 5_101_618


def test_word_counts_are_the_corpus_own_whatever_the_tokenizer(tmp_path: Path):
    (tmp_path / "ptb").mkdir()
    for short in ("train", "valid", "test"):
        (tmp_path / "ptb" / f"ptb.{short}.txt").write_text(" three words here \n" * 20)
    corpus = pack(data("ptb"), tmp_path, tmp_path / "bytes")
    assert corpus.split("test").words == 20 * 4
    assert pack(data("ptb", "word"), tmp_path, tmp_path / "words").split("test").words == 20 * 4
    text = tmp_path / "ptb" / "ptb.train.txt"
    assert pack(data(text, context=4), None, tmp_path / "text").split("train").words == 18 * 3


def test_tiny_shakespeare_has_nanogpts_tokens(real_data: Path, tmp_path: Path):
    corpus = pack(data("tiny-shakespeare", None), real_data, tmp_path / "out")
    whole = (real_data / "tiny-shakespeare" / "input.txt").read_text()
    index = {character: at for at, character in enumerate(sorted(set(whole)))}
    assert corpus.meta.vocab_size == 65
    assert corpus.tokenizer.separator is None
    held_out = corpus.held_out()
    assert held_out.tokens[:].tolist() == [
        index[character] for character in whole[int(len(whole) * 0.9) :]
    ]
    assert len(held_out.tokens) == 111_540
    assert held_out.bytes == 111_540
    assert held_out.documents.tolist() == [0, 55_770]


def test_documents_end_in_a_separator(tmp_path: Path, prose: Prose):
    for number in range(300):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{number}.txt").write_text(prose(2, seed=number) + "<|endoftext|>")
    corpus = pack(
        data(tmp_path / "docs", {"kind": "bpe", "vocab": 300}),
        None,
        tmp_path / "out",
        shard_tokens=1000,
    )
    separator = corpus.tokenizer.separator
    assert separator is not None
    assert corpus.meta.separated
    assert sum(split.documents for split in corpus.meta.splits.values()) == 300
    for name in SPLITS:
        split = corpus.split(name)
        ids = split.tokens[:]
        assert np.array_equal(
            np.flatnonzero(ids == separator) + 1, [*split.documents[1:], len(ids)]
        )
        texts = [
            corpus.tokenizer.decode(part.tolist()) for part in np.split(ids, split.documents[1:])
        ]
        assert all(text.endswith("<|endoftext|>" * 2) for text in texts)
        assert sum(len(text.encode()) - len("<|endoftext|>") for text in texts) == split.bytes
    with pytest.raises(RequestError, match="do not adjoin"):
        corpus.held_out()


def test_pieces_of_a_document_are_one_document(
    tmp_path: Path, prose: Prose, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "docs").mkdir()
    for number in range(2):
        (tmp_path / "docs" / f"{number}.txt").write_text(prose(300, seed=number))
    whole = pack(data(tmp_path / "docs"), None, tmp_path / "whole")
    monkeypatch.setattr("flyweight.data.reading.BLOCK", 512)
    monkeypatch.setattr(packing, "_BATCH", 700)
    pieces = pack(data(tmp_path / "docs"), None, tmp_path / "pieces", shard_tokens=1000)
    assert pieces.meta.fingerprint == whole.meta.fingerprint
    assert len(pieces.meta.splits["train"].shards) > 5
    for name in SPLITS:
        ours, theirs = pieces.meta.splits[name], whole.meta.splits[name]
        assert replace(ours, shards=()) == replace(theirs, shards=())
        assert pieces.split(name).documents.tolist() == whole.split(name).documents.tolist()
        assert np.array_equal(pieces.split(name).tokens[:], whole.split(name).tokens[:])


def test_large_vocabularies_take_four_bytes(tmp_path: Path):
    text = "".join(f"word{number}\n" for number in range(80_000))
    (tmp_path / "a.txt").write_text(text)
    corpus = pack(data(tmp_path / "a.txt", "word"), None, tmp_path / "out")
    assert corpus.meta.vocab_size > 65_536
    assert corpus.split("train").tokens.dtype == np.uint32
    assert int(corpus.split("train").tokens[:].max()) > 65_535
    assert corpus.split("test").unknown == corpus.split("test").words


def test_unseen_characters_are_counted(tmp_path: Path):
    (tmp_path / "a.txt").write_text("plain text\n" * 100 + "ünlit\n" * 3)
    corpus = pack(data(tmp_path / "a.txt", "char", context=4), None, tmp_path / "out")
    assert "ü" not in corpus.tokenizer.vocab
    assert corpus.split("test").unknown == 3
    assert corpus.split("train").unknown == 0
    assert not corpus.meta.lossless


def test_losses_are_counted_over_all_of_the_text(tmp_path: Path, prose: Prose):
    whole = "".join(f"{line}\n" for line in prose(9000).splitlines())
    (tmp_path / "a.txt").write_text(
        whole[: len(whole) * 7 // 10] + "\ntwo  spaces here\n" + whole[len(whole) * 7 // 10 :]
    )
    words = pack(data(tmp_path / "a.txt", "word"), None, tmp_path / "words")
    assert len(whole) * 7 // 10 > 65_536 and not words.meta.lossless
    assert words.meta.splits["train"].lost == 1
    told = words.meta.losses("train")
    assert told is not None and "1 line of the train split" in told and "too good" in told
    exact = pack(data(tmp_path / "a.txt", {"kind": "bpe", "vocab": 300}), None, tmp_path / "bpe")
    assert exact.meta.lossless and exact.meta.losses("validation+test") is None


def test_meta_files_of_early_days_know_the_beginning(text_file: Path, tmp_path: Path):
    meta = pack(data(text_file), None, tmp_path / "out").meta
    old = replace(
        meta,
        lossless=False,
        splits={name: replace(split, lost=None) for name, split in meta.splits.items()},
    )
    assert meta.losses("test") is None and "lines of the test split" in (old.losses("test") or "")


@pytest.mark.parametrize("kind", ["byte", "char", "word", {"kind": "bpe", "vocab": 300}])
def test_a_tokenizer_that_is_called_reversible_gives_everything_back(
    kind: Any, text_file: Path, tmp_path: Path
):
    tokenizer = pack(data(text_file, kind), None, tmp_path / "out").tokenizer
    assert tokenizer.reversible == (kind not in ("char", "word"))
    if tokenizer.reversible:
        strange = "  two\r\n\n\tspaces \u00e9 e\u0301 <|endoftext|> \U0001f600\x00 "
        assert tokenizer.decode(tokenizer.encode(strange)) == strange


def test_overlap_is_measured(tmp_path: Path, prose: Prose):
    start, end = prose(1000, seed=1), prose(50, seed=2)
    (tmp_path / "a.txt").write_text(start + end + start[: 2 * len(end) // 3])
    corpus = pack(data(tmp_path / "a.txt", test=0.04), None, tmp_path / "out")
    assert corpus.meta.overlap_unit == "pieces"
    assert corpus.meta.splits["test"].overlap is not None
    assert corpus.meta.splits["test"].overlap > 0.5
    assert corpus.meta.splits["train"].overlap is None


def test_a_text_twice_over_in_one_line_is_told(tmp_path: Path, prose: Prose):
    line = prose(800).replace("\n", " ")
    (tmp_path / "a.txt").write_text(line + line)
    corpus = pack(data(tmp_path / "a.txt"), None, tmp_path / "out")
    assert corpus.meta.splits["test"].overlap == 1
    assert corpus.meta.splits["validation"].overlap == 1


# --- fingerprints ---


def test_fingerprints(text_file: Path, tmp_path: Path):
    first = source_fingerprint(data(text_file))
    assert first == source_fingerprint(data(text_file, "char", context=99))
    assert first != source_fingerprint(data(text_file, validation=0.2))
    corpus = pack(data(text_file), None, tmp_path / "a")
    other = pack(data(text_file, "char"), None, tmp_path / "b")
    assert corpus.meta.fingerprint != other.meta.fingerprint
    copy = tmp_path / "elsewhere" / text_file.name
    copy.parent.mkdir()
    copy.write_bytes(text_file.read_bytes())
    assert source_fingerprint(data(copy)) == first
    assert pack(data(copy), None, tmp_path / "c").meta.fingerprint == corpus.meta.fingerprint
    copy.write_text(copy.read_text().replace("e", "x", 1))
    assert source_fingerprint(data(copy)) != first
    assert pack(data(copy), None, tmp_path / "d").meta.fingerprint != corpus.meta.fingerprint


def test_the_fingerprint_of_many_files_covers_their_names(tmp_path: Path, prose: Prose):
    for folder, names in (("x", "ab"), ("y", "ac")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            (tmp_path / folder / f"{name}.txt").write_text(prose(40, seed=number))
    assert source_fingerprint(data(tmp_path / "x")) != source_fingerprint(data(tmp_path / "y"))


# --- the folder ---


def test_a_folder_in_use_is_left_alone(text_file: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FlyweightError, match="is not empty"):
        pack(data(text_file), None, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_text_too_short_for_the_context_is_refused(text_file: Path, tmp_path: Path):
    with pytest.raises(RequestError, match="too small for a context of 4000"):
        pack(data(text_file, context=4000), None, tmp_path / "out")


def test_progress_ends_at_one(text_file: Path, tmp_path: Path):
    seen: list[tuple[str, float]] = []
    pack(
        data(text_file, {"kind": "bpe", "vocab": 300}),
        None,
        tmp_path / "out",
        lambda *told: seen.append(told),
    )
    for phase in ("reading for the tokenizer", "pack"):
        fractions = [done for name, done in seen if name == phase]
        assert fractions == sorted(fractions)
        assert fractions[-1] == pytest.approx(1)


def test_memory_is_flat(tmp_path: Path, prose: Prose, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flyweight.data.reading.BLOCK", 1 << 13)
    monkeypatch.setattr(packing, "_BATCH", 1 << 14)
    peaks: list[int] = []
    paragraph = prose(200)
    for repeats in (30, 150):
        path = tmp_path / f"{repeats}.txt"
        path.write_text(paragraph * repeats)
        tracemalloc.start()
        pack(data(path, "word"), None, tmp_path / f"out{repeats}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 1_000_000
    assert peaks[1] < 1.1 * peaks[0] + 50_000


# --- bad input ---


def test_too_small_says_what_is_needed_and_what_there_is(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a few words\n" * 40)
    with pytest.raises(RequestError) as caught:
        pack(data(tmp_path / "a.txt", context=64), None, tmp_path / "out")
    assert (
        "a.txt is too small for a context of 64: every split needs 65 tokens, there are train "
        "432, validation 24, test 24"
    ) in str(caught.value)
    (tmp_path / "b.txt").write_text("ab")
    with pytest.raises(RequestError, match=r"too small|is empty"):
        pack(data(tmp_path / "b.txt"), None, tmp_path / "other")


def test_one_bad_file_in_a_folder_is_named(tmp_path: Path, prose: Prose):
    (tmp_path / "docs").mkdir()
    for number in range(5):
        (tmp_path / "docs" / f"{number}.txt").write_text(prose(30))
    (tmp_path / "docs" / "bad.txt").write_bytes(b"abc\xff" + prose(30).encode())
    corpus = pack(data(tmp_path / "docs"), None, tmp_path / "out")
    assert corpus.meta.skipped == 1
    (line,) = corpus.meta.left_out
    assert line.startswith("bad.txt: ")
    assert "bad.txt is not UTF-8: byte 3 is 0xff" in line
    assert Corpus.open(corpus.folder).meta == corpus.meta
    with pytest.raises(RequestError, match=r"bad\.txt is not UTF-8: byte 3 is 0xff"):
        pack(data(tmp_path / "docs" / "bad.txt"), None, tmp_path / "alone")


def test_a_tokenizer_that_does_not_know_the_text(tmp_path: Path, text_file: Path):
    corpus = pack(data(text_file, "char"), None, tmp_path / "char")
    (tmp_path / "other.txt").write_text("ÄÖÜ\n" * 500)
    file = {"kind": "file", "path": str(corpus.folder / "tokenizer.json")}
    with pytest.raises(RequestError, match="the tokenizer knows no 'Ä', 'Ö', 'Ü'"):
        pack(data(tmp_path / "other.txt", file), None, tmp_path / "out")
    again = pack(data(text_file, file), None, tmp_path / "again")
    assert again.meta.tokenizer == corpus.meta.tokenizer
    with pytest.raises(RequestError, match="is not a readable tokenizer"):
        pack(data(text_file, {"kind": "file", "path": str(text_file)}), None, tmp_path / "third")


def test_unreadable_python_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from flyweight.data.document import HeldOut
    from flyweight.data.sources.python_stdlib import PythonStdlib

    for number in range(200):
        (tmp_path / f"m{number}.py").write_text(f"value = {number}\n" * 10)
    (tmp_path / "bad.py").write_bytes(b"\xff\n")
    monkeypatch.setattr(packing, "source_of", lambda *arguments: PythonStdlib(HeldOut(), tmp_path))
    corpus = pack(data("python-stdlib"), None, tmp_path / "out")
    assert corpus.meta.skipped == 1
    assert sum(split.documents for split in corpus.meta.splits.values()) == 200


def test_the_place_cannot_be_written(text_file: Path):
    with pytest.raises(FlyweightError):
        pack(data(text_file), None, Path("/proc/no/such/folder"))


# --- damage ---


@dataclass(frozen=True)
class Damage:
    file: str
    how: Callable[[Path], object]
    message: str


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGES = [
    Damage("train-00001.bin", _flip, "its checksum differs"),
    Damage(
        "train-00000.bin",
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        "it has 1998 bytes instead of 2000",
    ),
    Damage("test-00000.bin", Path.unlink, "No such file"),
    Damage("test-documents.npy", _flip, "its checksum differs"),
    Damage("tokenizer.json", Path.unlink, r"is not a readable tokenizer\.json"),
    Damage(
        "tokenizer.json",
        lambda path: path.write_text(path.read_text().replace('"!":33', '"!":34')),
        "fingerprint",
    ),
    Damage(
        "meta.json",
        lambda path: path.write_text(
            path.read_text().replace('"vocab_size": 258', '"vocab_size": 255')
        ),
        "digest",
    ),
    Damage("meta.json", lambda path: path.write_text(path.read_text()[:100]), "damaged"),
    Damage("meta.json", Path.unlink, "missing"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage.file}: {damage.message}")
def test_damage_is_found_and_named(text_file: Path, tmp_path: Path, damage: Damage):
    folder = tmp_path / "out"
    pack(data(text_file), None, folder, shard_tokens=1000)
    Corpus.open(folder)
    damage.how(folder / damage.file)
    with pytest.raises(FlyweightError, match=damage.message) as caught:
        Corpus.open(folder)
    assert damage.file in str(caught.value)
    assert caught.value.status == 1


def test_without_verifying_sizes_are_still_checked(text_file: Path, tmp_path: Path):
    folder = tmp_path / "out"
    pack(data(text_file), None, folder)
    _flip(folder / "train-00000.bin")
    Corpus.open(folder, verify=False)
    (folder / "train-00000.bin").write_bytes(b"")
    with pytest.raises(FlyweightError, match="it has 0 bytes"):
        Corpus.open(folder, verify=False)


def test_meta_comes_back(text_file: Path, tmp_path: Path):
    corpus = pack(data(text_file), None, tmp_path / "out")
    path = tmp_path / "out" / "meta.json"
    assert Meta.load(path) == corpus.meta
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "version": 99}))
    with pytest.raises(FlyweightError, match="version 2"):
        Meta.load(path)
    with pytest.raises(RequestError, match="a corpus has no split 'dev'"):
        corpus.split("dev")  # pyright: ignore[reportArgumentType]
