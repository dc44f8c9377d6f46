"""CSV whose cells are visible text, one row a line, and no formulas of a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from flyweight.visible import visible

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for the beginning of a formula."""


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; text that looks like a formula begins with an apostrophe."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> Any:
    if not isinstance(value, str):
        return value
    text = visible(value).replace("\n", "\\n").replace("\t", "\\t")
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
