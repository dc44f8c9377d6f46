"""The text of an HTML page: what a reader sees, a line for each block, without scripts and styles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

_HIDDEN = frozenset(("script", "style", "template", "noscript", "head"))
_LINES = frozenset(
    ("br", "li", "tr", "div", "dt", "dd", "option", "figcaption", "caption", "section", "article")
)
_PARAGRAPHS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre", "blockquote", "hr")
)
_CELLS = frozenset(("td", "th"))
_SPACE = re.compile(r"[ \t\n\r\f]+")


class _Text(HTMLParser):
    """Collects visible text; `parts` is emptied by whoever reads it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = self._verbatim = 0
        self._gap = ""  # white space owed before the next word
        self._begun = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin what a tag opens."""
        if tag == "body":  # a head need not be closed
            self._hidden = 0
        self._hidden += tag in _HIDDEN
        self._verbatim += tag == "pre"
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        """End what a tag closes."""
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self._verbatim = max(0, self._verbatim - (tag == "pre"))
        self._space(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag without content."""
        self._space(tag)

    def _space(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._gap = "\n\n"
        elif tag in _LINES and "\n" not in self._gap:
            self._gap = "\n"
        elif tag in _CELLS and not self._gap:
            self._gap = " "

    def handle_data(self, data: str) -> None:
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


def html_text(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the visible text of a page that comes in blocks, as it comes; it ends in a line end."""
    parser = _Text()
    begun = False
    for block in blocks:
        parser.feed(block)
        if parser.parts:
            yield "".join(parser.parts)
            parser.parts, begun = [], True
    parser.close()
    if parser.parts or begun:
        yield "".join(parser.parts) + "\n"
