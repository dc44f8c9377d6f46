"""Text from models and files, made safe to show: what would be invisible or steer the display becomes an escape."""

from __future__ import annotations

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs")


def visible(text: str) -> str:
    r"""Return text with control, format and surrogate characters written as `\x1b` or `\u202e`; line ends and tabs stay.

    The result is valid XML and cannot reverse, hide or colour what stands beside it.
    """
    text = text.replace("\r\n", "\n")
    return "".join(_escaped(ord(each)) if _hidden(each) else each for each in text)


def _hidden(character: str) -> bool:
    # Joiners are part of words and emoji in many scripts and hide nothing.
    if character in "\n\t\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}":
        return False
    code = ord(character)
    nothing = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return nothing or unicodedata.category(character) in _HIDDEN


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
