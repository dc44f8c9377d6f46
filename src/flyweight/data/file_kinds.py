"""What a file holds, by its ending and its first bytes, and advice for files without text."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO, Literal, cast

from flyweight.data.reading import open_text, read_blocks
from flyweight.errors import RequestError

Format = Literal["text", "html", "csv", "tsv", "jsonl", "parquet"]
Compression = Literal["gzip", "bzip2", "xz", "zstd"]

# fmt: off
TEXT_SUFFIXES = (
    ".txt", ".text", ".md", ".markdown", ".rst", ".org", ".tex", ".css", ".py", ".pyi", ".js",
    ".ts", ".c", ".h", ".cc", ".cpp", ".hpp", ".rs", ".go", ".java", ".kt", ".rb", ".lua", ".sh",
    ".sql",
)
# fmt: on
FORMATS: dict[str, Format] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".csv": "csv",
    ".tsv": "tsv",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".parquet": "parquet",
}
"""The formats by a file's ending; every other file is plain text."""
ROWS: frozenset[Format] = frozenset(("csv", "tsv", "jsonl", "parquet"))
SUFFIXES = (*TEXT_SUFFIXES, *FORMATS)
"""The endings that a folder is searched for, packed (`.txt.gz`) or not; a glob takes any ending."""
_PACKED: dict[str, Compression] = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
_PACKED_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_HEAD = 512

_PANDOC = "convert it first: pandoc -t plain {path} -o {text}"
_UNPACK = "unpack it and name the folder of its files"
_IMAGE = "a picture has no characters; recognise its text first, for example with tesseract"
_SOUND = "a recording has no characters; write down its words first"
_PDF = "convert it first: pdftotext {path} {text}"
_OFFICE = "convert it first: libreoffice --headless --convert-to txt:Text {path}"
_TABLE = "save its table as CSV first"
_MODEL = "name a text; a model is named as MODEL"
_DOCUMENTS: dict[str, tuple[str, str]] = {
    ".pdf": ("a PDF", _PDF),
    ".docx": ("a Word document", _PANDOC),
    ".odt": ("an OpenDocument text", _PANDOC),
    ".epub": ("an e-book", _PANDOC),
    ".rtf": ("a rich text document", "convert it first: pandoc -f rtf -t plain {path} -o {text}"),
    ".doc": ("a Word document", _OFFICE),
    ".ppt": ("a presentation", _OFFICE),
    ".pptx": ("a presentation", "convert it first, for example to PDF, then with pdftotext"),
    ".xls": ("a spreadsheet", _TABLE),
    ".xlsx": ("a spreadsheet", _TABLE),
    ".ods": ("a spreadsheet", _TABLE),
}
"""Documents by their endings: a folder names those that it leaves out."""
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"%PDF-", *_DOCUMENTS[".pdf"]),
    (0, b"{\\rtf", *_DOCUMENTS[".rtf"]),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document", _OFFICE),
    (0, b"\x89PNG", "a PNG picture", _IMAGE),
    (0, b"\xff\xd8\xff", "a JPEG picture", _IMAGE),
    (0, b"GIF87a", "a GIF picture", _IMAGE),
    (0, b"GIF89a", "a GIF picture", _IMAGE),
    (0, b"II*\0", "a TIFF picture", _IMAGE),
    (0, b"MM\0*", "a TIFF picture", _IMAGE),
    (8, b"WEBP", "a WebP picture", _IMAGE),
    (8, b"WAVE", "a sound file", _SOUND),
    (0, b"ID3\x03", "a sound file", _SOUND),
    (0, b"ID3\x04", "a sound file", _SOUND),
    (0, b"OggS\0", "a sound file", _SOUND),
    (0, b"fLaC\0", "a sound file", _SOUND),
    (4, b"ftyp", "a video or sound file", _SOUND),
    (0, b"SQLite format 3\0", "an SQLite database", _TABLE),
    (0, b"ARROW1\0", "an Arrow file", "save it as Parquet: Dataset.from_file(...).to_parquet(...)"),
    (0, b"\x93NUMPY", "a NumPy array", "a corpus is text, not token ids"),
    (0, b"GGUF\x03\0", "a GGUF model", _MODEL),
    (0, b"\x7fELF", "a program", "name a text"),
    (0, b"MZ\x90\0", "a program", "name a text"),
)


@dataclass(frozen=True)
class FileKind:
    """How a file is read: the format of its content, and how it is packed, if it is."""

    format: Format
    compression: Compression | None = None


def kind_of(path: Path) -> FileKind:
    """Return how a file is read; raise RequestError with what to do where it holds no text."""
    with open_text(path) as file:
        head = file.read(_HEAD)
    packed = _compression(head)
    if packed is not None:
        with open_bytes(path, packed) as file:
            head = b"".join(read_blocks(path, file, _HEAD))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if head.startswith(b"PAR1"):
        return FileKind("parquet", packed)
    _refuse(path, suffix, head)
    if suffix == ".json":
        return FileKind(_json_format(path, head), packed)
    return FileKind(FORMATS.get(suffix, "text"), packed)


def kind_by_name(path: PurePath) -> FileKind | None:
    """Return how a file of this name is read, without a look at it; None where it holds no text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = _PACKED.get(suffixes[-1]) if suffixes else None
    if packed is not None:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".json":
        return FileKind("jsonl", packed)
    if suffix in TEXT_SUFFIXES:
        return FileKind("text", packed)
    return FileKind(FORMATS[suffix], packed) if suffix in FORMATS else None


def _compression(head: bytes) -> Compression | None:
    return next((kind for magic, kind in _PACKED_MAGIC.items() if head.startswith(magic)), None)


def _refuse(path: Path, suffix: str, head: bytes) -> None:
    """Raise RequestError where the first bytes are those of a file without text."""
    # Letters further on may occur in a text too: there, a binary file also has a NUL byte.
    binary = b"\0" in head
    match = next(
        (m for m in _MAGIC if head[m[0] :].startswith(m[1]) and (m[0] == 0 or binary)), None
    )
    if match is None:
        return
    _, _, what, advice = match
    if what.startswith(("a zip", "an old")) and suffix in _DOCUMENTS:
        what, advice = _DOCUMENTS[suffix]
    raise RequestError(f"{path} is {what}, not text; {_filled(advice, path)}")


def _filled(advice: str, path: PurePath) -> str:
    text = shlex.quote(str(path.with_suffix(".txt")))
    return advice.format(path=shlex.quote(str(path)), text=text)


def _json_format(path: Path, head: bytes) -> Format:
    """Return `jsonl` for an object a line.

    Raises RequestError for a list, which is not read row by row.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        name = shlex.quote(str(path))
        rows = shlex.quote(str(path.with_suffix(".jsonl")))
        raise RequestError(
            f"{path} is one JSON list; write an object a line first: jq -c '.[]' {name} > {rows}"
        )
    return "jsonl"


@contextmanager
def open_bytes(path: Path, compression: Compression | None) -> Iterator[BinaryIO]:
    """Open a file for reading its bytes, unpacked; raise RequestError where that is impossible."""
    with open_text(path) as file:
        yield unpacked(path, file, compression)


def unpacked(path: PurePath, file: BinaryIO, compression: Compression | None) -> BinaryIO:
    """Return a file that reads an open one's bytes, unpacked; `path` is for messages."""
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    return _zstd(path, file) if compression == "zstd" else file


def _zstd(path: PurePath, file: BinaryIO) -> BinaryIO:
    try:
        import pyarrow
    except ImportError as error:
        raise RequestError(
            f"{path} is packed by zstd, which needs pyarrow: pip install pyarrow"
        ) from error
    return cast(BinaryIO, pyarrow.CompressedInputStream(file, "zstd"))


def in_folder(name: str) -> bool:
    """Return whether a folder's search takes a file of this name."""
    path = PurePath(name.lower())
    if path.suffix in _PACKED:
        path = path.with_suffix("")
    return path.suffix in SUFFIXES


def left_out(path: PurePath) -> str | None:
    """Return why a folder leaves out a document that a reader would take for text.

    None for others.
    """
    document = _DOCUMENTS.get(path.suffix.lower())
    return f"{document[0]}; {_filled(document[1], path)}" if document else None
