"""Markdown that says what is meant.

Text of users and models can neither format, nor link, nor leave its table or its block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import yaml

from flyweight.visible import visible

_PLAIN = re.compile(r"[^`|]+")
_SPECIAL = re.compile(
    r"[\\`*{}\[\]<>#|~&$@!^]|(?<!\w)_|_(?!\w)|(?<=_)_|_(?=_)|(?<=:)/|(?<=www)\.", re.ASCII
)
"""Signs with a meaning; a `_` has none inside a word, and the last two parts would make links."""


def text(value: object) -> str:
    """Return text as it stands, on one line, without any meaning to Markdown or HTML."""
    return _SPECIAL.sub(lambda sign: f"&#{ord(sign[0])};", _line(value))


def code(value: object) -> str:
    """Return text in the typeface of code, in a sentence or in a table's cell."""
    line = _line(value)
    if _PLAIN.fullmatch(line) and line == line.strip():
        return f"`{line}`"
    # A backtick or a bar inside backticks has no spelling that every reader knows.
    return f"<code>{text(value)}</code>"


def _line(value: object) -> str:
    return visible(str(value)).replace("\n", "\\n").replace("\t", "\\t")


def block(value: str, language: str = "") -> list[str]:
    """Return text as a block of code, fenced by more backticks than it has itself."""
    shown = visible(value)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *shown.split("\n"), fence]


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> list[str]:
    """Return a table; the columns named in `right` are set to the right.

    Cells are Markdown already.
    """
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join("---:" if name in right else ":---" for name in head) + "|",
    ]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def front_matter(fields: Mapping[str, object], *remarks: str) -> list[str]:
    """Return YAML front matter, as the Hugging Face hub reads it at the head of a README.

    Remarks are comments in it.
    """
    plain = yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=False)
    return ["---", *(f"# {remark}" for remark in remarks), *plain.splitlines(), "---", ""]
