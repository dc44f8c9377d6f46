"""From a matplotlib figure to an SVG of the page: the colours of its scheme, ids of its own.

Figures are drawn in placeholder colours, one per role; here each becomes a CSS variable (`--ink`,
`--series-0`, ...), so that light and dark schemes are the style sheet's business. Text stays text,
in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from flyweight.visible import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = 8

# Placeholders that no figure would use by chance; matplotlib writes colours as six lower-case
# hexadecimal digits.
_ROLES = ("ink", "muted", "grid", "paper", "front", *(f"series-{index}" for index in range(SERIES)))
COLOURS = {role: f"#01fe{index:02x}" for index, role in enumerate(_ROLES)}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flyweight",
    "font.size": 11.0,
    "axes.edgecolor": COLOURS["grid"],
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "text.parse_math": False,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and save figures within this: matplotlib's settings for them, put back afterwards.

    A `matplotlibrc`, as one that lies in the working folder, decides nothing: it could ask for
    programs to be run.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def series(index: int) -> str:
    """Return the placeholder colour of a lineage.

    They repeat after eight, where shapes tell them apart.
    """
    return COLOURS[f"series-{index % SERIES}"]


def inline(figure: Figure, key: str, alt: str, tips: Mapping[str, str]) -> str:
    """Return a figure as an `<svg>` element for an HTML page.

    `key` is unique on the page; `alt` says what the figure shows; `tips` are the texts shown over
    artists, by their gid.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    root = ElementTree.fromstring(buffer.getvalue())
    _without_namespaces(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        if text := tips.get(element.get("id", "")):
            title = ElementTree.Element("title")
            title.text = visible(text)
            element.insert(0, title)
        element.attrib = {
            name: _attribute(name, value, key) for name, value in element.attrib.items()
        }
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "figure",
        "role": "img",
        "aria-label": visible(alt),
    }
    return ElementTree.tostring(root, encoding="unicode")


def _without_namespaces(root: ElementTree.Element) -> None:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}


def _attribute(name: str, value: str, key: str) -> str:
    if name == "id":
        return f"{key}-{value}"
    if name == "href":
        return f"#{key}-{value.removeprefix('#')}"
    if name == "style":
        value = re.sub(r"font-family:[^;]*;?\s*", "", value)
        for role, colour in COLOURS.items():
            value = value.replace(colour, f"var(--{role})")
        return value
    if name == "clip-path":
        return value.replace("url(#", f"url(#{key}-")
    return re.sub(
        r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value
    )
