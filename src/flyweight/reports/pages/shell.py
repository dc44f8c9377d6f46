"""The page shell: what pages of runs and of studies share, and the tools of their templates.

A page is one self-contained file. It has no script and refers to nothing outside itself; its own
content policy forbids it to load anything. Text is escaped by the template engine, after what is
invisible in it has been made visible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.config.units import (
    format_count,
    format_percent,
    format_short,
    format_size,
    format_time,
)
from flyweight.errors import RequestError
from flyweight.reports.figures.run import SHAPES, Drawing
from flyweight.tables.engine import UNRANKED, Table
from flyweight.visible import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGE, MARKDOWN, CSV = "report.html", "table.md", "table.csv"
COLOURS = 8
"""Colours of the style sheet: further ones begin again."""
_GLYPHS: dict[str, str] = dict(zip(SHAPES, "●■▲◆▼✚✖⬟★⬢◀▶", strict=True))


@dataclass(frozen=True)
class Mark:
    """How a model is marked wherever it is named: the number of its colour, and its shape."""

    colour: int
    glyph: str

    @classmethod
    def of(cls, colour: int, marker: str) -> Mark:
        """Return the mark of a figure's colour and marker."""
        return cls(colour % COLOURS, _GLYPHS[marker])


def is_page(out: Path) -> bool:
    """Whether a place for a report names the page itself rather than a folder."""
    return out.suffix.lower() in (".html", ".htm")


def refuse_place(out: Path) -> None:
    """Raise RequestError where no report can be written.

    That is a page that is a folder already, or a folder that is a file.
    """
    if is_page(out) and out.is_dir():
        raise RequestError(
            f"--out {out}: this is a folder; name a file for the page, or a folder that does not "
            f"end in {out.suffix}"
        )
    if not is_page(out) and out.exists() and not out.is_dir():
        raise RequestError(
            f"--out {out}: this is a file; name a folder for the report, or a page that ends in "
            f".html"
        )


def render(
    template: str,
    title: str,
    tables: Sequence[Table[Any]],
    marks: Mapping[str, Mark],
    names: Mapping[str, Mark] | None = None,
    filters: Mapping[str, object] | None = None,
    **context: object,
) -> str:
    """Return a page of one of this package's templates.

    `marks` are by the keys of rows, `names` by what backticks in prose name. Undefined names in a
    template are errors.
    """
    engine = _environment(names or {})
    engine.filters |= filters or {}
    anchors = {row.key: table.anchor(row.key) for table in tables for row in table.rows}
    return engine.get_template(template).render(
        css=markup(resource("page.css")),
        title=title,
        marks=marks,
        anchors=anchors,
        unranked=UNRANKED,
        **context,
    )


def resource(name: str) -> str:
    """Return a file of this package."""
    return resources.files("flyweight.reports.pages").joinpath(name).read_text(encoding="utf-8")


def markup(text: str) -> Markup:
    """Return text of our own that the page takes as it is."""
    from markupsafe import Markup

    return Markup(text)  # our own style sheet and figures, whose texts are escaped already


def _environment(names: Mapping[str, Mark]) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    built = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    built.filters |= {
        "prose": lambda text: _prose(text, names),
        "svg": lambda drawing: markup(drawing.svg),
        "size": format_size,
        "count": format_count,
        "time": format_time,
        "measured": _measured,
        "percent": format_percent,
        "notes": lambda tables: _union(table.legend() for table in tables),
        "glossary": lambda tables: _union(table.glossary() for table in tables),
    }
    return built


def _shown(value: object) -> object:
    from markupsafe import Markup

    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_UNIT = re.compile(r"(?<=\d) (?=%|[kMGTPE]?B\b|[kMGTPE]\b|ms\b|s\b|min\b|h\b|times\b)")
"""The space between a number and its unit, at which no line may break."""


def _prose(text: str, names: Mapping[str, Mark]) -> Markup:
    """Return a sentence with its numbers kept whole and the names in backticks in their colours."""
    from markupsafe import Markup, escape

    def name(match: re.Match[str]) -> str:
        mark = names.get(match[1])
        return match[1] if mark is None else f'<span class="name s{mark.colour}">{match[1]}</span>'

    whole = _UNIT.sub("\N{NO-BREAK SPACE}", visible(text))
    return Markup(re.sub(r"`([^`]*)`", name, str(escape(whole))))


def _measured(value: float | None) -> str:
    return "" if value is None else format_short(value)


def _union(lists: Iterable[Iterable[object]]) -> list[object]:
    """Return all items once, in order of appearance."""
    return list(dict.fromkeys(item for items in lists for item in items))


def standalone(drawing: Drawing) -> str:
    """Return a figure as an SVG file of its own.

    It holds the page's colours, light and dark, which it otherwise takes from the style sheet.
    """
    css = resource("page.css")
    colours = css.partition(".s0 ")[0]  # the colours stand before everything else
    style = f"<style>{colours} svg {{ font-family: var(--sans); background: var(--paper) }}</style>"
    head, _, body = drawing.svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{body}\n'
