"""Reading text files: UTF-8 only, in pieces, with errors that name the file and the byte."""

from __future__ import annotations

import codecs
import io
import lzma
import os
import re
import shlex
import stat
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from flyweight.core.files import reason
from flyweight.data.document import Document, HeldOut, Skipped, SplitName
from flyweight.errors import RequestError

BLOCK = 1 << 17
"""Bytes read at once.

Also the least characters in a piece of a document, except its last piece.
"""

_WINDOW = 1 << 16
_PARAGRAPH = 1 << 11
# A byte-level pre-tokenizer joins a run of white space, less its last character; at these line
# starts it joins nothing.
_LINE_START = re.compile(r"(?<=\S\n)(?=\S)|(?<=\n)(?= \S)")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_text(path: Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises RequestError where it is missing, a folder or unreadable, and for a pipe or a device:
    files are read more than once, and opening a pipe waits for its writer.
    """
    try:
        _refuse_stream(path, path.stat())
        return open(path, "rb")
    except FileNotFoundError as error:
        raise RequestError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise RequestError(f"{path} is a folder, not a file") from error
    except PermissionError as error:
        raise RequestError(
            f"{path} cannot be read: permission denied; `chmod u+r` it or choose another file"
        ) from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def size(path: Path) -> int:
    """Return a file's size in bytes; raise RequestError where it cannot be known."""
    try:
        found = path.stat()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    _refuse_stream(path, found)
    return found.st_size


def _refuse_stream(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise RequestError(
            f"{path} is a pipe or a device, which is read only once; write it to a file first"
        )


def read_pieces(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Yield the text of bytes [start, stop) in pieces cut where no tokenizer joins.

    A byte-order mark at the file's start is left out, and CRLF comes as LF. Raises RequestError
    with file and byte offset for NUL bytes (a binary file) and for bytes that are not UTF-8.
    """
    with open_text(path) as file:
        file.seek(start)
        length = None if stop is None else stop - start
        yield from cut_blocks(decoded(path, read_blocks(path, file, length), start))


def read_blocks(path: Path, file: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    """Yield an open file's next `length` bytes (all of them where None).

    Raises RequestError where it is damaged.
    """
    remaining = length
    while remaining is None or remaining > 0:
        try:
            block = bytes(file.read(BLOCK if remaining is None else min(BLOCK, remaining)))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise RequestError(f"{path} is damaged or cut off: {reason(error)}") from error
        if not block:
            return
        remaining = None if remaining is None else remaining - len(block)
        yield block


def decoded(path: Path, blocks: Iterable[bytes], start: int = 0) -> Iterator[str]:
    """Yield the text of the blocks from byte `start` on, without byte-order mark, LF for CRLF.

    Raises RequestError as `read_pieces` does.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, carriage_return, first = start, "", start == 0
    for block in _and_end(blocks):
        text = carriage_return + _decoded(path, decoder, block, offset)
        offset += len(block)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        carriage_return = "\r" if block and text.endswith("\r") else ""
        yield text[: len(text) - len(carriage_return)].replace("\r\n", "\n")


def _and_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks, then an empty one, at which a decoder ends."""
    yield from blocks
    yield b""


def cut_blocks(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the text of blocks in pieces of at least BLOCK characters.

    Pieces are cut where no tokenizer joins characters.
    """
    text = ""
    for block in blocks:
        text += block
        if block and len(text) >= BLOCK:
            cut = safe_cut(text)
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


def _decoded(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, offset: int) -> str:
    if offset == 0 and block.startswith(_UTF16):
        raise RequestError(f"{path} is UTF-16; convert it first: {_converted(path, 'UTF-16')}")
    if (zero := block.find(b"\0")) >= 0:
        raise RequestError(
            f"{path} is not text: byte {offset + zero} is NUL; a corpus is UTF-8 text"
        )
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        at = offset - pending + error.start
        raise RequestError(
            f"{path} is not UTF-8: byte {at} is 0x{error.object[error.start]:02x} ({error.reason});"
            f" convert it first, for example: {_converted(path, 'LATIN1')}"
        ) from error


def _converted(path: Path, encoding: str) -> str:
    """Return the command that writes a file anew in UTF-8."""
    to = path.with_name(f"{path.stem}.utf8{path.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(to))}"


def safe_cut(text: str) -> int:
    """Return the last place to cut `text` where tokenizing both parts equals tokenizing all of it.

    Prefers a line start across which nothing is joined, then any line start, then a space; the very
    end where the text has none of these.
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


def normalized(text: str) -> str:
    """Return a row's text as a file's is read: no byte-order mark, LF for CRLF."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


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
    """Return two byte offsets that cut a file at about `fractions` of its length.

    A cut is at the nearest paragraph end, line end or space (within 2, 64 and 64 KiB), else between
    characters. No part of a file with three bytes or more is empty.
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


def cut_pieces(
    parts: Iterable[str], total: int, fractions: tuple[float, float]
) -> Iterator[tuple[int, str]]:
    """Yield the pieces of a text, each with the number of its part: 0, 1 or 2.

    The text has `total` characters and is read once. Parts end at about `fractions` of the
    characters, where `cut_text` would cut the piece that holds them.
    """
    targets = [round(total * fraction) for fraction in fractions]
    number = position = 0
    for text in parts:
        while number < len(targets) and text and position + len(text) > targets[number]:
            cut = _nearest_character(text, targets[number] - position)
            yield number, text[:cut]
            position, text, number = position + cut, text[cut:], number + 1
        if text:
            yield number, text
        position += len(text)


def _nearest_character(text: str, target: int) -> int:
    raw = text.encode()
    cut = _nearest_cut(raw, len(text[: max(0, target)].encode()), 1, len(raw))
    return len(raw[:cut].decode())


def part_of(text: str, split: SplitName, held_out: HeldOut) -> str:
    """Return a split's part of one text: train first, then validation, then test."""
    first, second = cut_text(text, (1 - held_out.validation - held_out.test, 1 - held_out.test))
    if held_out.validation == 0.0:
        first = second
    if held_out.test == 0.0:
        second = len(text)
    return {"train": text[:first], "validation": text[first:second], "test": text[second:]}[split]


def _nearest_cut(raw: bytes, target: int, low: int, high: int) -> int:
    """Return the best cut c of `raw` near `target` with low <= c < high.

    Without a paragraph end, line end or space in reach: `target` moved to a character's start.
    """
    target = min(max(target, low), max(low, high - 1))
    for mark, reach in ((b"\n\n", _PARAGRAPH), (b"\n", _WINDOW), (b" ", _WINDOW)):
        after = raw.find(mark, max(0, target - len(mark)), target + reach)
        before = raw.rfind(mark, max(0, target - reach), target)
        cuts = [at + len(mark) for at in (before, after) if at >= 0]
        cuts = [cut for cut in cuts if low <= cut < high]
        if cuts:
            return min(cuts, key=lambda cut: (abs(cut - target), cut))
    while low < target and raw[target : target + 1] and raw[target] & 0xC0 == 0x80:
        target -= 1
    while target < len(raw) and raw[target] & 0xC0 == 0x80:
        target += 1
    return target
