"""Text with a separator between documents, such as the line `<|endoftext|>` between stories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flyweight.data.document import SPLITS, About, Document, Skipped, Source, SplitName
from flyweight.data.reading import BLOCK, safe_cut

_Placed = tuple[SplitName, Document | Skipped]


@dataclass(frozen=True)
class Separated:
    """Another source's text, cut into documents at a separator.

    White space around the separator is not part of a document. Where the other source is one text
    from train to test, a document is in the split that it starts in.
    """

    source: Source
    separator: str

    @property
    def about(self) -> About:
        """What the other source says, with a document's end after each document."""
        return replace(self.source.about, separated=True)

    def documents(self, split: SplitName) -> Iterator[Document | Skipped]:
        """Yield the split's documents."""
        for place, document in _documents(self._placed(split), self.separator):
            if place == split:
                yield document

    def _placed(self, split: SplitName) -> Iterator[_Placed]:
        """Yield the other source's documents with their splits.

        Where the splits adjoin, they are one document.
        """
        if not self.source.about.contiguous:
            for document in self.source.documents(split):
                yield split, document
            return
        started = False
        for place in SPLITS:
            for document in self.source.documents(place):
                if isinstance(document, Document):
                    document = replace(document, continues=document.continues or started)
                    started = True
                yield place, document


def _documents(parts: Iterator[_Placed], separator: str) -> Iterator[_Placed]:
    """Yield the documents of a stream of pieces, themselves in pieces where they are long."""
    cut: _Cutter | None = None
    for place, part in parts:
        if isinstance(part, Skipped):
            yield place, part
            continue
        if cut is None or not part.continues:
            if cut is not None:
                yield from cut.finished()
            cut = _Cutter(part.name, separator)
        yield from cut.more(place, part.text)
    if cut is not None:
        yield from cut.finished()


class _Cutter:
    """Cuts one text: holds what was read of the current document and not yet yielded."""

    def __init__(self, name: str, separator: str) -> None:
        self._name, self._separator = name, separator
        self._number, self._text, self._started = 0, "", False
        self._place: SplitName | None = None

    def more(self, place: SplitName, text: str) -> Iterator[_Placed]:
        """Take the next piece of the text and yield what is certain."""
        self._text += text
        while (at := self._text.find(self._separator)) >= 0:
            self._place = self._place or place
            rest = self._text[at + len(self._separator) :]
            self._text = self._text[:at]
            yield from self._next(self._text.rstrip())
            self._number += 1
            self._text = rest
            self._started = False
            self._place = None
        if not self._started:
            self._text = self._text.lstrip()
        if self._text and self._place is None:
            self._place = place
        if len(self._text) > 2 * BLOCK:
            # The end is kept: it may be the beginning of a separator, or white space before one.
            certain = self._text[: len(self._text) - len(self._separator)]
            ready = certain[: safe_cut(certain)].rstrip()
            yield from self._next(ready)
            self._text = self._text[len(ready) :]

    def finished(self) -> Iterator[_Placed]:
        """Yield what is left at the text's end."""
        yield from self._next(self._text.rstrip())

    def _next(self, text: str) -> Iterator[_Placed]:
        text = text if self._started else text.lstrip()
        if text and self._place is not None:
            yield self._place, Document(f"{self._name}#{self._number}", text, self._started)
            self._started = True
