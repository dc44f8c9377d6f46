from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from flyweight.data.document import SPLITS, Document, HeldOut, Skipped, Source
from flyweight.data.reading import read_pieces
from flyweight.data.sources import SOURCES, resolve
from flyweight.data.sources.local import data_folder
from flyweight.data.sources.python_stdlib import PythonStdlib
from flyweight.data.sources.site_packages import SitePackages
from flyweight.data.sources.text import TextFile, TextFiles
from flyweight.data.sources.wikitext import articles
from flyweight.data.splitting import split_of, split_whole
from flyweight.errors import RequestError

Prose = Callable[..., str]


def texts(source: Source) -> dict[str, str]:
    return {
        split: "".join(d.text for d in source.documents(split) if isinstance(d, Document))
        for split in SPLITS
    }


def names(source: Source) -> dict[str, set[str]]:
    return {split: {d.name for d in source.documents(split)} for split in SPLITS}


# --- which source a name means ---


def test_every_registered_name_resolves(tmp_path: Path):
    for name in SOURCES:
        assert resolve(name, tmp_path).about.name == name


def test_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(
        RequestError,
        match=r"no corpus is called 'tiny-shakespear'; did you mean 'tiny-shakespeare'\?.*ptb",
    ) as caught:
        resolve("tiny-shakespear")
    assert caught.value.status == 2
    assert all(name in str(caught.value) for name in SOURCES)


def test_what_looks_like_a_path_is_reported_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for missing in ("gone.txt", "no/such/folder"):
        with pytest.raises(RequestError, match="does not exist"):
            resolve(missing)
    with pytest.raises(RequestError, match="no corpus is called ''"):
        resolve("")
    with pytest.raises(RequestError, match="no file matches"):
        resolve("*.nothing")
    with pytest.raises(RequestError):
        resolve("x" * 5000)
    with pytest.raises(RequestError):
        resolve("a\0b")


def test_a_bare_name_is_looked_for_in_the_data_folder_too(tmp_path: Path, prose: Prose):
    for name in ("stories", "notes.txt"):
        folder = tmp_path / name if name == "stories" else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / "notes.txt").write_text(prose(400), encoding="utf-8")
        source = resolve(name, tmp_path)
        assert sum(len(each.text) for split in SPLITS for each in source.documents(split)) > 300
    with pytest.raises(RequestError, match="no corpus is called"):
        resolve("stories", tmp_path / "stories")


def test_a_registered_name_wins_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prose: Prose
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ptb").write_text(prose(50))
    assert resolve("ptb").about.name == "ptb"
    assert not isinstance(resolve("ptb"), TextFile)
    assert isinstance(resolve("./ptb"), TextFile)


@pytest.mark.parametrize("name", ["hf:", "hf:wikitext", "hf:a/b/c", "hf:/b"])
def test_hub_names_are_checked(name: str):
    with pytest.raises(RequestError, match="write hf:owner/name"):
        resolve(name)


# --- one's own text ---


def test_one_file_is_split_by_position_at_line_ends(text_file: Path):
    source = resolve(str(text_file))
    parts = texts(source)
    whole = text_file.read_text()
    assert parts["train"] + parts["validation"] + parts["test"] == whole
    assert all(part.endswith("\n") for part in parts.values())
    assert len(parts["test"]) == pytest.approx(0.05 * len(whole), abs=200)
    assert source.about.contiguous
    assert not source.about.separated
    wider = texts(resolve(str(text_file), None, HeldOut(0.2, 0.3)))
    assert len(wider["validation"]) == pytest.approx(0.2 * len(whole), abs=200)
    assert len(wider["test"]) == pytest.approx(0.3 * len(whole), abs=200)


def test_empty_text_is_refused(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(RequestError, match=r"empty\.txt is empty"):
        resolve(str(tmp_path / "empty.txt"))
    with pytest.raises(RequestError, match=r"all 1 text files of .* are empty"):
        resolve(str(tmp_path))


def test_a_folder_without_text_says_what_it_holds(tmp_path: Path):
    with pytest.raises(RequestError, match="has no text files: it is empty"):
        resolve(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("hidden")
    with pytest.raises(RequestError, match=r"it holds only \.png; looked for \.txt"):
        resolve(str(tmp_path))


def test_a_folder_takes_text_and_a_glob_takes_what_it_matches(tmp_path: Path, prose: Prose):
    for name in ("a.txt", "sub/b.md", "c.py", "d.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(prose(50))
    folder = resolve(str(tmp_path))
    assert set.union(*names(folder).values()) == {"a.txt", "sub/b.md", "c.py"}
    assert folder.about.separated
    assert not folder.about.contiguous
    assert set.union(*names(resolve(f"{tmp_path}/*")).values()) == {"a.txt", "c.py", "d.log"}
    assert set.union(*names(resolve(f"{tmp_path}/**/*.md")).values()) == {"b.md"}


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_few_files_still_give_three_splits(tmp_path: Path, count: int, prose: Prose):
    for number in range(count):
        (tmp_path / f"{number}.txt").write_text(prose(60, seed=number))
    source = resolve(str(tmp_path))
    parts = texts(source)
    whole = sum(len(path.read_text()) for path in tmp_path.iterdir())
    assert sum(map(len, parts.values())) == whole
    assert len(parts["test"]) > 0.02 * whole
    assert len(parts["validation"]) > 0.02 * whole


def test_many_files_are_held_out_whole(tmp_path: Path, prose: Prose):
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(prose(4, seed=number))
    source = resolve(str(tmp_path))
    parts = names(source)
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["validation"]
    assert sum(map(len, parts.values())) == 300
    (tmp_path / "new.txt").write_text("a new file\n")
    again = names(resolve(str(tmp_path)))
    assert all(parts[split] <= again[split] for split in SPLITS), (
        "a new file moved old ones to another split"
    )


def test_a_whole_split_is_refused_where_its_share_is_too_small():
    held_out = HeldOut(0.05, 0.05)
    many = {f"{number}": 10 for number in range(400)}
    assert split_whole(many, held_out) is not None
    in_train = next(
        name for name in map(str, range(1000, 2000)) if split_of(name, held_out) == "train"
    )
    assert split_whole({**many, in_train: 10**6}, held_out) is None
    assert split_whole({"a": 1, "b": 1}, held_out) is None


# --- Python ---


def test_the_standard_library():
    source = PythonStdlib(HeldOut())
    files = source.files
    assert "json/decoder.py" in files
    assert "argparse.py" in files
    for left_out in (
        "test/",
        "encodings/",
        "pydoc_data/",
        "idlelib/",
        "lib2to3/",
        "distutils/",
        "site-packages/",
        "_sysconfigdata",
    ):
        assert not [
            name for name in files if name.startswith(left_out) or f"/{left_out}" in name
        ], left_out
    assert not {"telnetlib.py", "cgi.py", "asyncore.py", "imp.py", "smtpd.py"} & set(files)
    parts = names(source)
    assert sum(map(len, parts.values())) == sum(
        (source._root() / name).stat().st_size > 0 for name in files
    )
    assert min(map(len, parts.values())) >= 10
    assert max(len(texts(source)[split]) for split in ("validation", "test")) < 0.15 * len(
        texts(source)["train"]
    )


def test_a_python_without_sources_is_refused(tmp_path: Path):
    with pytest.raises(RequestError, match=r"holds no \.py files"):
        list(PythonStdlib(HeldOut(), tmp_path).documents("train"))
    with pytest.raises(RequestError, match=r"no \.py files under"):
        list(SitePackages(HeldOut(), (tmp_path,)).documents("train"))


def test_packages_keep_their_folders_together(tmp_path: Path):
    for package in range(60):
        (tmp_path / f"p{package}" / "sub").mkdir(parents=True)
        for file in ("__init__.py", "a.py", "sub/b.py", "data.txt"):
            (tmp_path / f"p{package}" / file).write_text(f"x = {package}\n")
    source = SitePackages(HeldOut(0.2, 0.2), (tmp_path, tmp_path))
    parts = names(source)
    assert sum(map(len, parts.values())) == 180
    folders = {split: {name.rpartition("/")[0] for name in found} for split, found in parts.items()}
    assert not folders["train"] & folders["test"]
    assert min(map(len, parts.values())) > 0


# --- standard corpora ---


def test_tiny_shakespeare_is_split_where_nanogpt_splits_it(real_data: Path):
    source = resolve("tiny-shakespeare", real_data)
    parts = texts(source)
    whole = (real_data / "tiny-shakespeare" / "input.txt").read_text()
    assert parts["train"] == whole[: int(len(whole) * 0.9)]
    assert parts["validation"] + parts["test"] == whole[int(len(whole) * 0.9) :]
    assert abs(len(parts["validation"]) - len(parts["test"])) <= 1
    assert source.about.contiguous


def test_ptb_is_its_files(real_data: Path):
    parts = texts(resolve("ptb", real_data))
    assert parts["validation"] == (real_data / "ptb" / "ptb.valid.txt").read_text()
    assert [len(part.split()) + part.count("\n") for part in parts.values()] == [
        929_589,
        73_760,
        82_430,
    ]


def test_wikitext_articles_are_documents(real_data: Path):
    for short in ("valid", "test"):
        path = real_data / "wikitext-2" / f"{short}.txt"
        found = list(articles(read_pieces(path)))
        assert "".join(document.text for document in found) == path.read_text()
        # Merity et al. (2016), table 1: 60 articles in each.
        assert sum(not document.continues for document in found) in (60, 61, 62)
        assert all(document.text.startswith(" \n = ") for document in found)


def test_a_wikitext_file_without_titles_does_not_fill_memory():
    parts = (" plain words \n" * 20_000 for _ in range(12))
    found = list(articles(parts))
    assert max(len(document.text) for document in found) <= 1 << 21
    assert sum(len(document.text) for document in found) == 12 * 20_000 * len(" plain words \n")
    assert [document.continues for document in found] == [False, *[True] * (len(found) - 1)]


def test_a_missing_file_is_named_with_both_remedies(real_data: Path, tmp_path: Path):
    if (real_data / "wikitext-2" / "train.txt").exists():
        pytest.skip("wikitext-2 is complete here")
    with pytest.raises(RequestError) as caught:
        resolve("wikitext-2", real_data)
    message = str(caught.value)
    assert str(real_data / "wikitext-2" / "train.txt") in message
    assert "put the file there" in message
    assert 'pip install "flyweight[hub]"' in message


def test_original_file_names_are_taken_too(tmp_path: Path):
    (tmp_path / "wikitext-103-raw").mkdir()
    for short in ("train", "valid", "test"):
        (tmp_path / "wikitext-103-raw" / f"wiki.{short}.raw").write_text(
            f" \n = {short} = \n \n words \n"
        )
    source = resolve("wikitext-103-raw", tmp_path)
    assert texts(source)["validation"] == " \n = valid = \n \n words \n"
    assert source.about.tokenizer.kind == "bpe"


def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FLYWEIGHT_DATA", raising=False)
    assert data_folder(None) is None
    assert data_folder(tmp_path) == tmp_path
    monkeypatch.setenv("FLYWEIGHT_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    with pytest.raises(RequestError, match=r"--data-dir: .*gone is not a folder"):
        data_folder(tmp_path / "gone")


def test_text_files_of_one_name_in_two_folders_stay_apart(tmp_path: Path, prose: Prose):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(prose(30, seed=ord(folder)))
    source = resolve(f"{tmp_path}/*/x.txt")
    assert isinstance(source, TextFiles)
    assert [file.name for file in source.files] == ["a/x.txt", "b/x.txt"]


# --- one's own files of every kind ---


def test_rows_are_documents(tmp_path: Path, prose: Prose):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": prose(2, seed=n), "id": n}) + "\n" for n in range(500))
    )
    source = resolve(str(path))
    assert source.about.separated
    assert not source.about.contiguous
    documents = {split: list(source.documents(split)) for split in SPLITS}
    assert sum(map(len, documents.values())) == 500
    assert 10 < len(documents["test"]) < 50
    found = {d.name: d.text for part in documents.values() for d in part if isinstance(d, Document)}
    assert found["rows.jsonl/7"] == prose(2, seed=7)
    path.write_text(path.read_text() + json.dumps({"text": "one more", "id": 500}) + "\n")
    assert names(source)["test"] <= names(resolve(str(path)))["test"], "a new row moved old ones"


def test_few_rows_are_cut_in_three(tmp_path: Path, prose: Prose):
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "".join(f'"{prose(50, seed=n)}"\n' for n in range(3)))
    parts = texts(resolve(str(path)))
    assert sum(map(len, parts.values())) == sum(len(prose(50, seed=n)) for n in range(3))
    assert len(parts["test"]) > 0.03 * len(parts["train"])


def test_rows_without_text_are_left_out_and_a_column_is_named(tmp_path: Path, prose: Prose):
    path = tmp_path / "rows.jsonl"
    rows = [{"body": prose(2, seed=n), "title": "t"} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"title": "alone"}]))
    with pytest.raises(
        RequestError, match=r"It has body, title: several are text .* data\.column=NAME"
    ):
        texts(resolve(str(path)))
    source = resolve(str(path), column="body")
    assert [d for d in source.documents("train") if isinstance(d, Skipped)] == [
        Skipped("rows.jsonl/200", "the row has no text")
    ]
    path.write_text(json.dumps({"text": ""}) + "\n")
    with pytest.raises(RequestError, match=r"rows\.jsonl has no row with text"):
        texts(resolve(str(path)))


def test_a_column_of_what_has_none_is_refused(tmp_path: Path, prose: Prose):
    (tmp_path / "a.txt").write_text(prose(20))
    for corpus in ("ptb", str(tmp_path / "a.txt"), str(tmp_path)):
        with pytest.raises(RequestError, match=r"data\.column: .* leave it out"):
            resolve(corpus, column="body")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.md.bz2", "a.txt.xz", "a.htm"])
def test_packed_text_and_pages_are_cut_in_three(tmp_path: Path, prose: Prose, name: str):
    text = prose(9000)
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(
        name.split(".")[-1], bytes
    )
    (tmp_path / name).write_bytes(
        pack(text.replace("\n", "<br>\n").encode() if name == "a.htm" else text.encode())
    )
    source = resolve(str(tmp_path / name))
    parts = texts(source)
    assert parts["train"] + parts["validation"] + parts["test"] == text
    assert all(part.endswith("\n") for part in parts.values())
    assert len(parts["train"]) == pytest.approx(0.9 * len(text), abs=200)
    assert len(parts["test"]) == pytest.approx(0.05 * len(text), abs=200)


def test_one_bad_file_among_many_is_left_out_and_named(tmp_path: Path, prose: Prose):
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(prose(30, seed=number))
    (tmp_path / "rows.csv").write_text("a,b\nx,y\n")
    (tmp_path / "late.txt").write_bytes(prose(30_000).encode() + b"\xff")
    (tmp_path / "packed.md").write_bytes(b"PK\x03\x04")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    source = resolve(str(tmp_path))
    skipped = {
        d.name: d.reason
        for split in SPLITS
        for d in source.documents(split)
        if isinstance(d, Skipped)
    }
    assert set(skipped) == {"rows.csv", "late.txt", "packed.md", "paper.pdf"}
    assert "data.column=NAME" in skipped["rows.csv"]
    assert "is not UTF-8" in skipped["late.txt"]
    assert "is a zip archive" in skipped["packed.md"]
    assert "pdftotext" in skipped["paper.pdf"]
    whole = sum(len(prose(30, seed=number)) for number in range(30))
    assert sum(map(len, texts(source).values())) == whole
    with pytest.raises(RequestError, match=r"late\.txt is not UTF-8"):
        texts(resolve(str(tmp_path / "late.txt")))
    with pytest.raises(RequestError, match=r"rows\.csv.* It has a, b"):
        texts(resolve(str(tmp_path / "rows.csv")))


def test_a_folder_of_bad_files_alone_is_refused(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"\xff\xff\xff")
    with pytest.raises(
        RequestError, match=r"has no file that can be read: a\.txt: .*not UTF-8.* \(1 more"
    ):
        texts(resolve(str(tmp_path)))


def test_marks_and_windows_line_ends_are_no_characters(tmp_path: Path):
    for number in range(60):
        (tmp_path / f"{number:02}.txt").write_bytes(
            f"\ufeffThe play goes on.\r\nScene {number}\r\n".encode()
        )
    parts = texts(resolve(str(tmp_path)))
    assert set("".join(parts.values())) <= set("The play goes on.\nScene 0123456789")
    one = tmp_path / "00.txt"
    one.write_bytes(("\ufeff" + "A line.\r\n" * 500).encode())
    parts = texts(resolve(str(one)))
    assert "".join(parts.values()) == "A line.\n" * 500


def test_several_names_are_one_corpus(tmp_path: Path, prose: Prose):
    for name in ("a/1.txt", "a/sub/2.md", "a/.hidden.txt", "b/3.log", "b/4.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(prose(30, seed=len(name)))
    (tmp_path / "b/bad.txt").write_bytes(b"\xff")
    given_names = [
        str(tmp_path / "c.txt"),
        str(tmp_path / "a"),
        f"{tmp_path}/b/*",
        str(tmp_path / "a/1.txt"),
    ]
    source = resolve(given_names)
    assert isinstance(source, TextFiles)
    assert [file.name for file in source.files] == [
        "a/1.txt",
        "a/sub/2.md",
        "b/3.log",
        "b/4.txt",
        "b/bad.txt",
        "c.txt",
    ]
    assert [d.name for d in source.documents("train") if isinstance(d, Skipped)] == ["b/bad.txt"]
    again = resolve(list(reversed(given_names)))
    assert texts(again) == texts(source), "the order of the names does not matter"
    assert isinstance(resolve([str(tmp_path / "c.txt")]), TextFile)
    with pytest.raises(RequestError, match=r"gone\.txt' does not exist"):
        resolve([str(tmp_path / "c.txt"), str(tmp_path / "gone.txt")])
    with pytest.raises(RequestError, match="no file matches"):
        resolve([str(tmp_path / "*.nothing")])
