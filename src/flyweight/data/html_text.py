"""The text of an HTML page: what a reader sees, a line for each block, without scripts and styles.

Pages are read here, and not by Python's html.parser: of what is never closed, that one reads the
rest again and again, and raises errors of its own; what it makes of such pages depends on Python's
version. Here each character is looked at a few times at most, and little but text is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from html import unescape

_HIDDEN = frozenset(("script", "style", "template", "noscript", "head"))
_LINES = frozenset(
    ("br", "li", "tr", "div", "dt", "dd", "option", "figcaption", "caption", "section", "article")
)
_PARAGRAPHS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre", "blockquote", "hr")
)
_CELLS = frozenset(("td", "th"))
_RAW = frozenset(("script", "style"))
"""What these hold is no markup: it goes on to their own end tag."""
_SPACE = re.compile(r"[ \t\n\r\f]+")
_NAME = re.compile(r"[^ \t\n\r\f/>]*")
_LONGEST_NAME = 64
_OPENING = 9
"""The characters of `<![CDATA[`, the longest opening that tells what follows."""
_CUT_REFERENCE = re.compile(r"&#?[0-9A-Za-z]{0,40}\Z")
_LONG_NUMBER = re.compile(r"&#(?:([0-9]{8,})|([xX])([0-9A-Fa-f]{8,}));?")
_TAG = re.compile(
    r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,20}+)"
    r"""(?:[ \t\n\r\f]++[a-zA-Z][-_:.a-zA-Z0-9]*+(?:="[^"]*+"|='[^']*+')?)*+"""
    r"[ \t\n\r\f]*+(/?)>"
)
"""A whole tag as nearly all are written; of any other, each part is read by itself."""
_STEPS = {
    "before a name": re.compile(r"[ \t\n\r\f/]*"),
    "name": re.compile(r"[^ \t\n\r\f/>=]*"),
    "after a name": re.compile(r"[ \t\n\r\f]*"),
    "before a value": re.compile(r"[ \t\n\r\f]*"),
    "value": re.compile(r"[^ \t\n\r\f>]*"),
}
"""What is skipped in each part of a tag's attributes."""


class _Text:
    """Collects visible text; `parts` is emptied by whoever reads it."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._hidden = self._verbatim = 0
        self._gap = ""  # white space owed before the next word
        self._begun = False

    def start(self, tag: str) -> None:
        """Begin what a tag opens."""
        if tag == "body":  # a head need not be closed
            self._hidden = 0
        self._hidden += tag in _HIDDEN
        self._verbatim += tag == "pre"
        self.space(tag)

    def end(self, tag: str) -> None:
        """End what a tag closes."""
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self._verbatim = max(0, self._verbatim - (tag == "pre"))
        self.space(tag)

    def space(self, tag: str) -> None:
        """Owe the white space that a tag stands for; all that a tag without content does."""
        if tag in _PARAGRAPHS:
            self._gap = "\n\n"
        elif tag in _LINES and "\n" not in self._gap:
            self._gap = "\n"
        elif tag in _CELLS and not self._gap:
            self._gap = " "

    def data(self, data: str) -> None:
        """Add visible characters; white space counts once, except in <pre>."""
        if self._hidden:
            return
        if self._verbatim:
            self._add(data)
            return
        words = _SPACE.sub(" ", data)
        if words.startswith(" "):
            self._gap = self._gap or " "
        if stripped := words.strip(" "):
            self._add(stripped)
            self._gap = " " if words.endswith(" ") else ""

    def _add(self, text: str) -> None:
        if text:
            self.parts.append((self._gap if self._begun else "") + text)
            self._begun, self._gap = True, ""


class _Reader:
    """Tells text from markup, as browsers do, in a page that comes in blocks.

    `_state` is what the next characters belong to. Each state takes what it can of the buffer from
    `_at` on, and returns whether it got anywhere; what it leaves is short, and waits for more.
    """

    def __init__(self, text: _Text) -> None:
        self._text = text
        self._buffer, self._at, self._whole = "", 0, False
        self._state: Callable[[], bool] = self._data
        self._tag, self._ends, self._self_closing = "", False, False
        self._part, self._close = "", re.compile("")

    def read(self, block: str, *, last: bool = False) -> None:
        """Take the next block of the page."""
        self._buffer, self._at, self._whole = self._buffer[self._at :] + block, 0, last
        while self._state():
            pass

    def _data(self) -> bool:
        at = self._buffer.find("<", self._at)
        end = len(self._buffer) if at < 0 else at
        if at < 0 and not self._whole:
            tail = max(self._at, end - 50)
            cut = _CUT_REFERENCE.search(self._buffer, tail)
            end = end if cut is None else cut.start()
        if end > self._at:
            self._text.data(_characters(self._buffer[self._at : end]))
            self._at = end
        if at >= 0:
            self._state = self._markup
        return at >= 0

    def _markup(self) -> bool:
        if tag := _TAG.match(self._buffer, self._at):
            self._at = tag.end() - 1
            self._ends, self._tag, self._self_closing = bool(tag[1]), tag[2].lower(), bool(tag[3])
            return self._tag_ends()
        opening = self._buffer[self._at : self._at + _OPENING]
        if len(opening) < _OPENING and not self._whole:
            return False
        closes = opening.startswith("</")
        first = opening[2:3] if closes else opening[1:2]
        if first.isascii() and first.isalpha():
            self._at += 2 if closes else 1
            self._tag, self._ends, self._state = "", closes, self._name
        elif opening.startswith("<!--"):
            # The dashes that open may close as well: `<!-->` is a whole comment.
            self._skip(4 if opening[4:5] != ">" and opening[4:6] != "->" else 2, _COMMENT_ENDS)
        elif opening.startswith("<![CDATA["):
            self._skip(_OPENING, _SECTION_ENDS)
        elif closes or opening[1:2] in ("!", "?"):
            self._skip(1, _MARK_ENDS)
        else:
            self._text.data("<")
            self._at += 1
            self._state = self._data
        return True

    def _skip(self, opening: int, close: re.Pattern[str]) -> None:
        self._at += opening
        self._close, self._state = close, self._skipped

    def _skipped(self) -> bool:
        match = self._close.search(self._buffer, self._at)
        if match is None:  # an end may be cut in two
            self._at = max(self._at, len(self._buffer) - _OPENING)
            return False
        self._at, self._state = match.end(), self._data
        return True

    def _name(self) -> bool:
        match = _NAME.match(self._buffer, self._at)
        assert match is not None  # it matches nothing as well
        self._tag = (self._tag + match.group()[:_LONGEST_NAME])[:_LONGEST_NAME]
        self._at = match.end()
        if self._at == len(self._buffer):
            return False
        self._tag = self._tag.lower()
        self._self_closing, self._part, self._state = False, "before a name", self._attributes
        return True

    def _attributes(self) -> bool:
        """Take one part of a tag's attributes, or its end."""
        if self._part in ('"', "'"):
            end = self._buffer.find(self._part, self._at)
            self._at = len(self._buffer) if end < 0 else end + 1
            self._part = self._part if end < 0 else "before a name"
            return end >= 0
        match = _STEPS[self._part].match(self._buffer, self._at)
        assert match is not None  # it matches nothing as well
        self._at = match.end()
        if self._part == "before a name" and match.group():
            self._self_closing = match.group().endswith("/")
        if self._at == len(self._buffer):
            return False
        following = self._buffer[self._at]
        if self._part == "before a name":
            if following == ">":
                return self._tag_ends()
            self._part, self._self_closing = "name", False
            self._at += following == "="  # as its first character, it is part of a name
        elif self._part == "before a value" and following in ('"', "'"):
            self._at += 1
            self._part = following
        elif self._part == "before a value" and following != ">":
            self._part = "value"
        elif self._part in ("name", "after a name") and following == "=":
            self._at += 1
            self._part = "before a value"
        elif self._part == "name" and following not in "/>":
            self._part = "after a name"
        else:
            self._part = "before a name"
        return True

    def _tag_ends(self) -> bool:
        self._at += 1
        self._state = self._data
        if self._ends:
            self._text.end(self._tag)
        elif self._self_closing:
            self._text.space(self._tag)
        else:
            self._text.start(self._tag)
            if self._tag in _RAW:
                self._close, self._state = _RAW_ENDS[self._tag], self._raw
        return True

    def _raw(self) -> bool:
        match = self._close.search(self._buffer, self._at)
        if match is None:
            self._at = max(self._at, len(self._buffer) - _OPENING)
            return False
        self._at, self._state = match.start(), self._markup
        return True


_COMMENT_ENDS = re.compile("--!?>")
_SECTION_ENDS = re.compile("]]>")
_MARK_ENDS = re.compile(">")
_RAW_ENDS = {tag: re.compile(rf"</{tag}(?=[ \t\n\r\f/>])", re.IGNORECASE) for tag in _RAW}


def _characters(text: str) -> str:
    """Return text with the characters that references such as `&amp;` stand for."""
    if "&#" in text:  # Python refuses to read numbers of thousands of digits
        text = _LONG_NUMBER.sub(_shorter, text)
    return unescape(text)


def _shorter(match: re.Match[str]) -> str:
    decimal, base, digits = match.groups()
    number = (decimal or digits).lstrip("0") or "0"
    return f"&#{base or ''}{number};" if len(number) < 8 else "\ufffd"


def html_text(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the visible text of a page that comes in blocks, as it comes; it ends in a line end.

    What is never closed (a comment, a tag, a script) goes on to the page's end, and is not shown.
    """
    text = _Text()
    reader = _Reader(text)
    begun = False
    for block in blocks:
        reader.read(block)
        if text.parts:
            yield "".join(text.parts)
            text.parts, begun = [], True
    reader.read("", last=True)
    if text.parts or begun:
        yield "".join(text.parts) + "\n"
