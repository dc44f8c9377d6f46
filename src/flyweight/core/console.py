"""A terminal for styled text: what is said on it cannot steer it, however it came into a line or a table."""

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
    """A console on standard output, or on standard error or in a file where told, that shows text as it stands.

    No markup, no emoji codes, no links, and control characters as escapes; styles come from our own
    code alone.
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
    def size(self) -> ConsoleDimensions:  # pyright: ignore[reportIncompatibleMethodOverride] - rich alone sets it
        """Columns and lines, as they are now where no width was given."""
        known = super().size
        return (
            known if self._width is not None else ConsoleDimensions(terminal.width(), known.height)
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a cell or a line, whose width is that of what is shown."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of anything, their text visible, without links.

        What libraries print comes here as well.
        """
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else Segment(visible(segment.text), _plain(segment.style))
            )


def _plain(style: Style | None) -> Style | None:
    if style is None or not (style.link or style.conceal):
        return style
    return style.update_link(None) + Style(conceal=False)
