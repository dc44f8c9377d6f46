from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path, PurePath

import pytest

from flyweight.data.file_kinds import FileKind, in_folder, kind_of, left_out, open_bytes
from flyweight.errors import RequestError

TEXT = b"Some words, a line.\n" * 100


def zstd(raw: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.txt", FileKind("text")),
        ("a", FileKind("text")),
        ("a.log", FileKind("text")),
        ("A.HTML", FileKind("html")),
        ("a.csv", FileKind("csv")),
        ("a.tsv", FileKind("tsv")),
        ("a.jsonl", FileKind("jsonl")),
        ("a.json", FileKind("jsonl")),
    ],
)
def test_endings_tell_the_format(tmp_path: Path, name: str, kind: FileKind):
    (tmp_path / name).write_bytes(TEXT)
    assert kind_of(tmp_path / name) == kind


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    "name, format", [("a.csv.gz", "csv"), ("a.txt", "text"), ("a.htm.zst", "html")]
)
def test_packed_files_are_known_by_their_bytes(tmp_path: Path, packer: str, name: str, format: str):
    path = tmp_path / name
    path.write_bytes(PACKERS[packer](TEXT))
    kind = kind_of(path)
    assert (kind.format, kind.compression) == (format, packer)
    with open_bytes(path, kind.compression) as file:
        assert file.read() == TEXT


@pytest.mark.parametrize(
    "name, head, message",
    [
        ("a.pdf", b"%PDF-1.7\n", r"a\.pdf is a PDF, not text; .*pdftotext \S+/a\.pdf \S+/a\.txt"),
        ("a.txt", b"%PDF-1.7\n", r"a\.txt is a PDF"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a PNG picture, not text; a picture has no"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "is a JPEG picture"),
        (
            "a.docx",
            b"PK\x03\x04\x14\0",
            r"is a Word document, not text; .*pandoc -t plain \S+/a\.docx -o \S+/a\.txt",
        ),
        ("a.xlsx", b"PK\x03\x04\x14\0", "is a spreadsheet, not text; save its table as CSV"),
        ("a.zip", b"PK\x03\x04\x14\0", "is a zip archive, not text; unpack it"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1", "is a Word document, not text; .*libreoffice"),
        ("a.rtf", b"{\\rtf1\\ansi", "is a rich text document"),
        ("a.mp4", b"\0\0\0\x20ftypisom", "is a video or sound file"),
        ("a.gguf", b"GGUF\x03\0\0\0", "is a GGUF model"),
        (
            "a.json",
            b' [\n{"text": "a"}]',
            r"is one JSON list; .*jq -c '\.\[\]' \S+a\.json > \S+a\.jsonl",
        ),
    ],
)
def test_files_without_text_say_what_they_are_and_what_to_do(
    tmp_path: Path, name: str, head: bytes, message: str
):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(RequestError, match=message):
        kind_of(tmp_path / name)


def test_letters_that_only_look_like_a_format_are_text(tmp_path: Path):
    path = tmp_path / "a.txt"
    for text in ("GGUF is a format", "ID3 tags", "the ftyp box", "BZh", "MZ", "01234567WEBP", "PK"):
        path.write_text(text)
        assert kind_of(path) == FileKind("text")


def test_archives_inside_packed_files_are_found(tmp_path: Path):
    tar = bytearray(1024)
    tar[257:262] = b"ustar"
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(tar)))
    with pytest.raises(RequestError, match="is a tar archive"):
        kind_of(tmp_path / "a.tar.gz")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(RequestError, match="is a zip archive"):
        kind_of(tmp_path / "b.zip")


@pytest.mark.parametrize("packer", PACKERS)
def test_damaged_packed_files_are_refused(tmp_path: Path, packer: str):
    path = tmp_path / "a.txt"
    raw = PACKERS[packer](TEXT)
    path.write_bytes(raw[:10] + b"\xff" * 20)
    with pytest.raises(RequestError, match=r"a\.txt is damaged"):
        kind_of(path)


def test_what_a_folder_takes():
    assert all(map(in_folder, ("a.txt", "a.TXT", "b.csv.gz", "c.parquet", "d.html", "e.md.zst")))
    assert not any(map(in_folder, ("a.json", "a.png", "b.gz", "c.tar.gz", "txt", "Makefile")))
    assert "pdftotext" in str(left_out(PurePath("folder/a.PDF")))
    assert left_out(PurePath("a.png")) is None
