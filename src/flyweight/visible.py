"""Make text from models and files safe to show.

Characters that are invisible, or that would steer the display, become escapes.
"""

from __future__ import annotations

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
_BLANK = "\u115f\u1160\u17b4\u17b5\u2065\u3164\uffa0"
"""Letters and marks that are drawn as nothing."""


def visible(text: str, before: str = "") -> str:
    r"""Return text with control, format and surrogate characters written as `\x1b` or `\u202e`.

    Line ends and tabs stay. The result is valid XML and cannot reverse, hide or colour the text
    beside it. `before` is the character shown last: it decides whether a joiner or a variation
    selector belongs to it.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    for character in text.replace("\r\n", "\n"):
        hidden = _hidden(character, before)
        shown.append(_escaped(ord(character)) if hidden else character)
        before = "" if hidden else character
    return "".join(shown)


def _hidden(character: str, before: str) -> bool:
    if character in "\n\t":
        return False
    if character in _JOINERS:  # part of words and emoji in many scripts, of which none is ASCII
        return not before or before.isascii() or before in _JOINERS
    code = ord(character)
    if _selects(code):
        return not before or before.isspace() or before in _JOINERS or _selects(ord(before))
    nothing = (
        code & 0xFFFE == 0xFFFE
        or 0xFDD0 <= code <= 0xFDEF
        or 0xFFF0 <= code <= 0xFFF8
        or code >> 12 == 0xE0
    )
    return nothing or character in _BLANK or unicodedata.category(character) in _HIDDEN


def _selects(code: int) -> bool:
    """Return whether this chooses the form of the character before it."""
    return (
        code == 0x34F
        or code in (0x180B, 0x180C, 0x180D, 0x180F)
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0100 <= code <= 0xE01EF
    )


def _escaped(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"
