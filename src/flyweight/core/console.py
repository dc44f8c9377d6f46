"""A terminal for styled text that no shown text can steer, in a line or in a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from flyweight.core import terminal
from flyweight.visible import visible


class Terminal(Console):
    """A console that shows text literally: on standard output, standard error or in a file.

    It reads no markup and no emoji codes, and it makes no links. Control characters are shown as
    escapes. Styles come from our own code alone.
    """

    def __init__(
        self,
        file: TextIO | None = None,
        stderr: bool = False,
        width: int | None = None,
        **options: Any,
    ) -> None:
        plain = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
        }
        out = file or terminal.exact(sys.stderr if stderr else sys.stdout)
        options = {"markup": False, "emoji": False, "highlight": False, **options}
        super().__init__(file=out, stderr=stderr, width=width, _environ=plain, **options)

    @property
    def size(self) -> ConsoleDimensions:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Columns and lines; the columns are asked for anew where no width was given."""
        size = super().size
        if self._width is not None:
            return size
        return ConsoleDimensions(terminal.width(), size.height)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a cell or a line; its width is that of the shown text."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of anything: their text is visible, and links are left out.

        What libraries print passes through here as well.
        """
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), _plain(segment.style))


def _plain(style: Style | None) -> Style | None:
    if style is None or not (style.link or style.conceal):
        return style
    return style.update_link(None) + Style(conceal=False)
