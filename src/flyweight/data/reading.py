"""Reading text files: UTF-8 only, in pieces, with errors that name the file and the byte."""

from __future__ import annotations

import codecs
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flyweight.data.document import Document, Skipped
from flyweight.errors import RequestError

BLOCK = 1 << 17
"""Bytes read at once, and the characters that a piece of a document has at least (unless the document ends)."""

_WINDOW = 1 << 16
_PARAGRAPH = 1 << 11
# A byte-level pre-tokenizer joins a run of white space, less its last character; at these line starts it joins nothing.
_LINE_START = re.compile(r"(?<=\S\n)(?=\S)|(?<=\n)(?= \S)")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_text(path: Path) -> BinaryIO:
    """Open a file for reading bytes; raise RequestError where it is missing, a folder or unreadable."""
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise RequestError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise RequestError(f"{path} is a folder, not a file") from error
    except PermissionError as error:
        raise RequestError(f"{path} cannot be read: permission denied; `chmod u+r` it or choose another file") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def size(path: Path) -> int:
    """Return a file's size in bytes; raise RequestError where it cannot be known."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def read_pieces(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Yield the text of bytes [start, stop) in pieces cut where no tokenizer joins; line ends stay as they are.

    Raises RequestError with file and byte offset for NUL bytes (a binary file) and for bytes that are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, text = start, ""
    with open_text(path) as file:
        file.seek(start)
        while stop is None or offset < stop:
            block = file.read(BLOCK if stop is None else min(BLOCK, stop - offset))
            if not block:
                break
            text += _decoded(path, decoder, block, offset)
            offset += len(block)
            if len(text) >= BLOCK:
                cut = safe_cut(text)
                yield text[:cut]
                text = text[cut:]
        text += _decoded(path, decoder, b"", offset)
    if text:
        yield text


def _decoded(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, offset: int) -> str:
    if offset == 0 and block.startswith(_UTF16):
        raise RequestError(f"{path} is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 {path.name}")
    if (zero := block.find(b"\0")) >= 0:
        raise RequestError(f"{path} is not text: a NUL byte stands at byte {offset + zero}; a corpus is UTF-8 text")
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        at = offset - pending + error.start
        raise RequestError(
            f"{path} is not UTF-8: byte {at} is 0x{error.object[error.start]:02x} ({error.reason});"
            " convert it first, for example iconv -f LATIN1 -t UTF-8"
        ) from error


def safe_cut(text: str) -> int:
    """Return where to cut `text` so that tokenizing both parts equals tokenizing the whole, as near its end as there is one.

    Prefers a line start across which nothing is joined, then any line start, then a space; the very end where there is none.
    """
    for start in (max(0, len(text) - 4096), 0):
        starts = [match.start() for match in _LINE_START.finditer(text, start)]
        if starts:
            return starts[-1]
    if (line := text.rfind("\n", 0, len(text) - 1)) > 0:
        return line + 1
    if (space := text.rstrip(" ").rfind(" ")) > 0:
        return space
    return len(text)


def pieces(name: str, parts: Iterator[str]) -> Iterator[Document]:
    """Yield the pieces of one document; nothing for an empty one."""
    continues = False
    for text in parts:
        if text:
            yield Document(name, text, continues)
            continues = True


def split_text(text: str) -> Iterator[str]:
    """Yield a text in pieces of about BLOCK characters."""
    start = 0
    while len(text) - start > 2 * BLOCK:
        cut = safe_cut(text[start : start + BLOCK])
        yield text[start : start + cut]
        start += cut
    yield text[start:]


def read_python(path: Path, name: str) -> Iterator[Document | Skipped]:
    """Yield a Python file in the encoding that it declares, or why it was left out."""
    with open_text(path) as file:
        source = file.read()
    if b"\0" in source:
        yield Skipped(name, "NUL bytes")
        return
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
        text.encode()
    except (SyntaxError, UnicodeError, LookupError) as error:
        yield Skipped(name, f"undecodable: {error}")
        return
    yield from pieces(name, split_text(text))


def cut_file(path: Path, fractions: tuple[float, float]) -> tuple[int, int]:
    """Return two byte offsets that cut a file at about `fractions` of its length, each part non-empty if it has three bytes.

    A cut is at the nearest paragraph end, line end or space (within 2, 64 and 64 KiB), else between characters.
    """
    total = size(path)
    cuts: list[int] = []
    with open_text(path) as file:
        for index, fraction in enumerate(fractions):
            low, high = (cuts[-1] if cuts else 0) + 1, total - (1 - index)
            target = min(max(round(total * fraction), low), high)
            begin = max(low - 1, target - _WINDOW)
            file.seek(begin)
            around = file.read(target + _WINDOW - begin)
            cuts.append(begin + _nearest_cut(around, target - begin, low - begin, high - begin))
    return cuts[0], cuts[1]


def cut_text(text: str, fractions: tuple[float, float]) -> tuple[int, int]:
    """Return two character positions that cut `text` as `cut_file` cuts a file."""
    raw = text.encode()
    first = _nearest_cut(raw, round(len(raw) * fractions[0]), 1, len(raw) - 1)
    second = _nearest_cut(raw, round(len(raw) * fractions[1]), first + 1, len(raw))
    return len(raw[:first].decode()), len(raw[:second].decode())


def _nearest_cut(raw: bytes, target: int, low: int, high: int) -> int:
    """Return the best cut c of `raw` near `target` with low <= c < high, or `target` moved to a character's start."""
    target = min(max(target, low), max(low, high - 1))
    for mark, reach in ((b"\n\n", _PARAGRAPH), (b"\n", _WINDOW), (b" ", _WINDOW)):
        after = raw.find(mark, max(0, target - len(mark)), target + reach)
        before = raw.rfind(mark, max(0, target - reach), target)
        found = [at + len(mark) for at in (before, after) if at >= 0 and low <= at + len(mark) < high]
        if found:
            return min(found, key=lambda cut: (abs(cut - target), cut))
    while low < target and raw[target : target + 1] and raw[target] & 0xC0 == 0x80:
        target -= 1
    while target < len(raw) and raw[target] & 0xC0 == 0x80:
        target += 1
    return target
